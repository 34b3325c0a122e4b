"""What the benchmarks of speed share: interleaved timing, peak memory, one table.

Memory of a process only ever rises: a row that states a peak does its work by `in_subprocess`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

HEADER = ("work", "against", "ours", "theirs", "ratio (range)", "target", "met?", "note, peak")


@dataclass(frozen=True)
class Row:
    """One line of the table; `target` reads like "≥ 12x" (of the ratio) or "≤ 120 s" (of `ours`).

    `met` is for targets that are more than one number; `span` is the range of the ratio.
    """

    work: str
    against: str
    ours: float
    theirs: float | None
    unit: str
    target: str
    ratio: float | None
    note: str = ""
    peak_mb: float | None = None
    span: tuple[float, float] | None = None
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """Whether the target was met; a dash where there is none, or nothing to compare with."""
        met = self.met
        found = re.match(r"\s*(≥|>=|≤|<=)\s*([\d.]+)\s*([x×]?)", self.target)
        value = self.ratio if found and found[3] else self.ours
        if met is None and found and value is not None:
            met = value >= float(found[2]) if found[1] in "≥>=" else value <= float(found[2])
        return "-" if met is None else ("yes" if met else "NO")

    def cells(self) -> tuple[str, ...]:
        """The line as texts under `HEADER`."""
        theirs = "-" if self.theirs is None else f"{self.theirs:.4g} {self.unit}"
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}x"
        if self.span is not None:
            ratio += f" ({self.span[0]:.3g} to {self.span[1]:.3g})"
        peak = "" if self.peak_mb is None else f"peak {self.peak_mb:.0f} MB"
        note = "; ".join(part for part in (self.note, peak) if part)
        ours = f"{self.ours:.4g} {self.unit}"
        return self.work, self.against, ours, theirs, ratio, self.target, self.verdict, note


@dataclass(frozen=True)
class Timing:
    """Medians in seconds, and the ratio theirs / ours of neighbouring runs: median and range."""

    ours: float
    theirs: float
    ratio: float
    span: tuple[float, float]


def interleaved(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = 5, warmup: int = 1
) -> Timing:
    """Wall seconds of both, run in turn, so that a busy machine slows both alike."""
    for _ in range(warmup):
        ours()
        theirs()
    seconds = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    ratios = [b / a for a, b in seconds]
    a, b = (median(column) for column in zip(*seconds, strict=True))
    return Timing(a, b, median(ratios), (min(ratios), max(ratios)))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage calls the peak includes that of the parent
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


def in_subprocess(work: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """Return `work(*args)` of a fresh process, and its peak; `work` is a module's own function."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *args).result(), pool.submit(peak_mb).result()


def skip_aloud(peer: str, error: BaseException) -> None:
    """Say on standard error that `peer` is not compared with, and why."""
    print(f"skipped: {peer} ({type(error).__name__}: {error})", file=sys.stderr, flush=True)


def format_rows(rows: Iterable[Row]) -> str:
    """The rows as an aligned text table."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADER))]
    padded = (
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def print_rows(rows: Iterable[Row]) -> None:
    """Print the rows as an aligned text table."""
    print(format_rows(rows), flush=True)
