"""Cases that nothing should survive badly: bad arguments, damaged files, odd words.

The long form is a command, which goes on where it was stopped::

    python tests/robustness/fuzz.py --cases 10000 --seed 0 --out fuzz.jsonl

A case follows from the seed and its number alone; ``--only 17`` runs one, and shows what it did.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

#: Seconds of a processor after which a case is stopped, and of the clock after which its process
#: is killed; bytes of memory beyond what the process starts with.
PROCESSOR, WALL, MEMORY = 20, 150, 6 * 2**30
#: Errors that are ours in words; all others follow `cellflow._checks.message`.
WORDED = {"FloatingPointError", "IntegrationError"}
PHRASED = re.compile(r"`[^`]+`: got .*, expected ", re.DOTALL)

#: What is noted on the error of a function of the user's own, which is theirs.
FROM_FUNCTION = "What was given as"
#: Ends that are none of a defect; the last is a file that could not be damaged any further.
FINE = ("ok", "refused", "no case")


class Stopped(BaseException):
    """A case that takes too long."""


# --- verdicts --------------------------------------------------------------------------------
def judge(call: Callable[[], Any]) -> tuple[str, str]:
    """Return what kind of end a call came to ("ok", "refused" or a defect), and details."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            out = call()
    except Stopped:
        return "too long", _place()
    except Exception as error:
        if any(FROM_FUNCTION in note for note in getattr(error, "__notes__", ())):
            return "refused", f"{error} (raised by the function that was given)"
        text = str(error.args[0]) if error.args else ""
        if isinstance(error, OSError) and error.strerror and error.filename:
            return "refused", f"{error.strerror}: {error.filename}"  # the system's own words
        missing = isinstance(error, ImportError) and "pip install" in text  # an extra
        if missing or type(error).__name__ in WORDED or PHRASED.match(text):
            return "refused", text
        return "raw error", _told(error)
    if not said and has_nan(out):
        return "silent NaN", f"{type(out).__name__}"
    return "ok", ""


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/cellflow/" in f.filename]
    at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside"
    return f"{at} {type(error).__name__}: {str(error)[:200]}"


def _place() -> str:
    return _told(sys.exc_info()[1])


def has_nan(value: Any, depth: int = 0) -> bool:
    """Whether there is a NaN among the numbers of a result."""
    import numpy as np
    import pandas as pd
    import torch

    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and bool(value.isnan().any())
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and bool(np.isnan(value).any())
    if isinstance(value, pd.DataFrame):
        return any(has_nan(value[c].to_numpy()) for c in value if value[c].dtype.kind == "f")
    if depth > 3:
        return False
    if isinstance(value, dict):
        return any(has_nan(v, depth + 1) for v in value.values())
    if isinstance(value, (tuple, list)):
        return any(has_nan(v, depth + 1) for v in value[:50])
    if is_dataclass(value) and not isinstance(value, type):
        return any(has_nan(getattr(value, f.name), depth + 1) for f in fields(value))
    return False


def state_of(adata: Any) -> dict[str, Any]:
    """Everything that an AnnData holds, by its place, as hashes."""
    import pandas as pd
    import scipy.sparse as sp
    from joblib import hash as digest

    def plain(value: Any) -> Any:
        if sp.issparse(value):
            return digest((value.shape, value.data, value.indices, value.indptr))
        if isinstance(value, pd.DataFrame):
            return {str(c): digest(value[c].to_numpy()) for c in value} | {
                "index": digest(list(value.index))
            }
        return digest(value)

    out = {"X": plain(adata.X), "obs": plain(adata.obs), "var": plain(adata.var)}
    for part in ("obsm", "varm", "layers", "uns", "obsp", "varp"):
        out[part] = {str(k): plain(v) for k, v in dict(getattr(adata, part)).items()}
    return out


def left_over(folder: Path, kind: str) -> str | None:
    """What a case should not have left in its folder."""
    here = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    hidden = [name for name in here if Path(name).name.startswith(".") or name.endswith(".tmp")]
    zarr = [name for name in hidden if Path(name).name in (".zarray", ".zgroup", ".zattrs")]
    hidden = sorted(set(hidden) - set(zarr))
    if hidden:
        return f"hidden {hidden[:3]}"
    here = [name for name in here if ".zarr" not in name]  # the same command goes on with it
    return f"{here[:3]}" if here and kind != "ok" else None


# --- cases -----------------------------------------------------------------------------------
def argument_case(rng: random.Random) -> tuple[str, Callable[[], tuple[str, str]]]:
    """One or two nasty values in place of the arguments of a door."""
    from robustness.doors import NASTY, PATIENCE, doors

    global _DOORS
    _DOORS = _DOORS or list(doors())
    door = rng.choice(_DOORS)
    names = [p.name for p in door.parameters]
    chosen = rng.sample(names, min(len(names), 1 if rng.random() < 0.8 else 2))
    drawn = {}
    for name in chosen:
        values = [v for v in NASTY if not (name in PATIENCE and v in HUGE)]
        if name == "net":  # what a factory of one's own raises is its own
            values = [v for v in values if not callable(NASTY[v]())]
        drawn[name] = rng.choice(values)
    what = f"{door.name}({', '.join(f'{k}={v}' for k, v in drawn.items())})"

    def run() -> tuple[str, str]:
        given = door.good() | {name: NASTY[value]() for name, value in drawn.items()}
        adata = given.get("adata")
        before = state_of(adata) if type(adata).__name__ == "AnnData" else None
        kind, text = judge(lambda: door.call(**given))
        if door.name.startswith("pl."):
            import matplotlib.pyplot as plt

            plt.close("all")
        if kind == "silent NaN" and "NaN" in door.told:
            kind, text = "ok", ""
        if before is not None:
            after = state_of(adata)
            if kind == "refused" and after != before:
                parts = [k for k in before if after[k] != before[k]]
                return "half-written", f"AnnData {parts} after {text}"
        return kind, text

    return what, run


_DOORS: list | None = None
HUGE = {"1000000000", "9223372036854775808", "2147483648", "1e+308", "1e308", "inf"}
HUGE |= {"1e-300", "[1e+308, -1e+308]"}
#: Kinds of cases, and how many of a hundred are theirs.
SHARES = {"arguments": 70, "files": 15, "folders": 10, "words": 5}


def case(seed: int, number: int) -> tuple[str, str, Callable[[], tuple[str, str]]]:
    """Return the family, the description and the run of a case."""
    from robustness import damage

    rng = random.Random(f"{seed}/{number}")
    family = rng.choices(list(SHARES), list(SHARES.values()))[0]
    makers = {
        "arguments": argument_case,
        "files": damage.file_case,
        "folders": damage.folder_case,
        "words": damage.words_case,
    }
    what, run = makers[family](rng)
    return family, what, run


def work(seed: int, numbers: Iterable[int], say: Callable[[dict], None]) -> None:
    """Run cases in this process, and say before and after each of them."""
    import psutil

    def stop(*_: Any) -> None:
        raise Stopped

    signal.signal(signal.SIGPROF, stop)
    me = psutil.Process()
    resource.setrlimit(resource.RLIMIT_AS, (me.memory_info().vms + MEMORY, resource.RLIM_INFINITY))
    home = os.getcwd()
    for number in numbers:
        family, what, run = case(seed, number)
        say({"case": number, "family": family, "what": what})
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            signal.setitimer(signal.ITIMER_PROF, PROCESSOR)
            try:
                kind, text = run()
            except Stopped:
                kind, text = "too long", ""
            except Exception as error:  # of this file, not of the package
                kind, text = "no case", _told(error)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                os.chdir(home)
            left = left_over(Path(folder), kind)
            if left is not None and kind in ("ok", "refused"):
                kind, text = "half-written", f"{left} after {kind} {text}"
        running = [c for c in me.children(recursive=True) if not _stays(c)]
        if running and kind in ("ok", "refused"):
            kind, text = "left running", f"{[_line(c)[:80] for c in running]}"
        for child in running:
            child.kill()
        seconds = round(time.perf_counter() - started, 2)
        say({"case": number, "kind": kind, "text": text[:400], "seconds": seconds})


def _stays(process: Any) -> bool:
    """Whether a child may be there between calls: it waits for work, and ends with its parent."""
    line = _line(process)
    return not line or "resource_tracker" in line or "popen_loky" in line


def _line(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except Exception:
        return ""


# --- many of them ----------------------------------------------------------------------------
def run(seed: int, numbers: list[int]) -> Iterator[dict]:
    """Run cases in a process of its own, which is started again where one ends it."""
    todo = list(numbers)
    while todo:
        asked = ",".join(map(str, todo))
        command = [sys.executable, __file__, "--seed", str(seed), "--worker"]
        root = Path(__file__).parents[2]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        with tempfile.TemporaryFile("w+") as errors:
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=environment,
            )  # fmt: skip
            yield from _heard(worker, asked, todo)
            errors.seek(max(errors.seek(0, 2) - 1500, 0))
            if todo and worker.returncode not in (0, None) and worker.returncode > 0:
                raise RuntimeError(f"the worker failed: {errors.read()}")


def _heard(worker: subprocess.Popen, asked: str, todo: list[int]) -> Iterator[dict]:
    """Yield the ends of cases that a worker says, and what ended it."""
    assert worker.stdin and worker.stdout
    worker.stdin.write(asked)
    worker.stdin.close()
    current: dict = {}
    killed = False

    def kill(*_: Any) -> None:
        nonlocal killed
        killed = True
        worker.kill()

    while True:
        timer = threading.Timer(WALL, kill)
        timer.start()
        line = worker.stdout.readline()
        timer.cancel()
        if not line:
            break
        current = {**current, **json.loads(line)} if "kind" in line else json.loads(line)
        if "kind" in current:
            todo.remove(current["case"])
            yield current
            current = {}
    worker.stdout.close()
    code = worker.wait()
    if current:
        todo.remove(current["case"])
        ended = "too long" if killed else f"signal {-code}" if code < 0 else f"exit {code}"
        yield {**current, "kind": ended, "text": "the process ended", "seconds": WALL}
    elif code != 0 and not killed:
        raise RuntimeError("the worker does not start")


def count(rows: Iterable[dict]) -> str:
    """Return how often each kind of end came, by family."""
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        table[row["kind"]][row["family"]] += 1
    head = f"{'':16}" + "".join(f"{family:>11}" for family in SHARES)
    lines = [f"{kind:16}" + "".join(f"{c[f]:11,}" for f in SHARES) for kind, c in table.items()]
    return "\n".join([head, *sorted(lines)])


def main() -> None:
    """Run the cases that are asked for and not in the file yet."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--only", type=int)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a case prints is not for the parent
        work(
            given.seed,
            [int(k) for k in sys.stdin.read().split(",")],
            lambda row: print(json.dumps(row), file=out, flush=True),
        )
        return
    if given.only is not None:
        print(*run(given.seed, [given.only]), sep="\n")
        return
    rows = []
    if given.out.exists():
        rows = [json.loads(line) for line in given.out.read_text().splitlines()]
    done = {row["case"] for row in rows}
    todo = [k for k in range(given.first, given.first + given.cases) if k not in done]
    with given.out.open("a") as file:
        for row in run(given.seed, todo):
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)
            if row["kind"] not in FINE:
                print(f"{row['case']} {row['kind']}: {row['what']}: {row['text']}", flush=True)
    print(count(rows))


if __name__ == "__main__":
    main()
