"""Plant bugs in a copy of the package, one at a time, and see that the tests find each.

    python tests/plant_bugs.py [name ...]

Each bug replaces one piece of text, which must occur exactly once, and must turn the named tests
red; without bugs they must be green. Exit status 1 where a bug survives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Bug:
    """One replacement of `old` by `new` in a file, and the test files that must see it."""

    file: str
    old: str
    new: str
    tests: str


#: Three lines a bug: its name, file and tests; the text; and what takes its place.
TABLE = Path(__file__).with_name("planted_bugs.txt").read_text(encoding="utf8")


def bugs(table: str) -> dict[str, Bug]:
    """Read the table, by names."""
    lines = [line for line in table.splitlines() if not line.startswith("#")]
    out = {}
    for head, old, new in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, file, tests = head.split(" | ")
        out[name] = Bug(file, old.removeprefix("  - "), new.removeprefix("  + "), tests)
    return out


BUGS = bugs(TABLE)


def run(source: Path, tests: str) -> tuple[int, str]:
    """Run test files against the package in `source`; the exit status, and the first failure."""
    paths = {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}  # not the working directory
    environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1"}
    where = "import cellflow; print(cellflow.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, capture_output=True, text=True, check=False
    )
    if str(source) not in found.stdout:
        return 2, f"the copy is not what is imported: {found.stdout}{found.stderr[-200:]}"
    files = [f"tests/{name}.py" for name in tests.split()]
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    out = result.stdout
    lines = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
    text = lines[0].split(" ", 1)[1].split(" - ")[0] if lines else out[-300:]
    # A copy that does not even run is no bug that a test found.
    broken = any(word in out for word in ("NameError", "SyntaxError", "ImportError"))
    return (2 if broken or result.returncode not in (0, 1) else result.returncode), text


def main() -> int:
    """Plant the bugs that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="; ".join(BUGS))
    names = parser.parse_args().names or list(BUGS)
    unknown = sorted(set(names) - set(BUGS))
    if unknown:
        parser.error(f"no bug named {unknown}")
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        shutil.copytree(
            ROOT / "cellflow", source / "cellflow", ignore=shutil.ignore_patterns("__pycache__")
        )
        files = " ".join(dict.fromkeys(f for name in names for f in BUGS[name].tests.split()))
        status, text = run(source, files)
        if status != 0:
            print(f"The tests are not green to begin with: {text}")
            return 1
        for name in names:
            bug = BUGS[name]
            path = source / "cellflow" / bug.file
            original = path.read_text(encoding="utf8") if path.exists() else ""
            count = original.count(bug.old)
            if count != 1:
                print(f"{'STALE':9}{name}: its text is found {count} times in {bug.file}")
                survived += 1
                continue
            path.write_text(original.replace(bug.old, bug.new), encoding="utf8")
            start = time.perf_counter()
            status, text = run(source, bug.tests)
            path.write_text(original, encoding="utf8")
            verdict = {0: "SURVIVED", 1: "found", 2: "BROKEN"}[status]
            survived += status != 1
            seconds = time.perf_counter() - start
            print(f"{verdict:9}{name:44}{seconds:4.0f} s  {text}", flush=True)
    print(f"{len(names) - survived} of {len(names)} bugs found")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main())
