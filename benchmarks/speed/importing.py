"""What a user waits for before anything happens, against `import torch` alone.

    python benchmarks/speed/importing.py

Whole processes, interpreter and all, interleaved. `import cellflow` is lazy and loads next to
nothing; what it puts off is paid at the first use, which the other rows state.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from timing import Row, print_rows

TORCH = "import torch"
#: Lines of Python, their targets, and what to know of them.
LINES = {
    "import cellflow": ("≤ 1.2x", "lazy: loads nothing yet"),
    "import cellflow; cellflow.OTCFM": ("", "ready to fit tensors; torch included"),
    "import cellflow; cellflow.tl.fit": ("", "ready to fit an AnnData; torch included"),
}


def rows(data: Path | None = None, *, quick: bool = True) -> Iterator[Row]:
    """One row for each line of `LINES`; the ratio is ours / theirs."""
    lines = [TORCH, *LINES]
    rounds = [[_seconds(line) for line in lines] for _ in range(4 if quick else 12)]
    theirs, *columns = zip(*rounds[1:], strict=True)  # the first one fills the caches of files
    for (work, (target, note)), ours in zip(LINES.items(), columns, strict=True):
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        span = min(ratios), max(ratios)
        a, b = median(ours), median(theirs)
        yield Row(work, TORCH, a, b, "s", target, median(ratios), note, span=span)


def _seconds(line: str) -> float:
    """Wall seconds of one line of Python in a process of its own."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", line], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    print_rows(rows(quick=False))
