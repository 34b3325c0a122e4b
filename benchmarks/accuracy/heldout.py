"""Days left out of all sets, predicted by methods at their defaults and by what learns nothing.

    python benchmarks/accuracy/heldout.py FOLDER                  # of .npz files with `X` and `t`
    python benchmarks/accuracy/heldout.py FOLDER --sets cite,eb --dims 5 --time index
    python benchmarks/accuracy/heldout.py FOLDER --print          # the table of what is done so far

Each interior time point is left out, methods are fitted to the others, and predict it; cells weigh
by their masses. Exact W1, also of as many equal cells as the day before has, W2, energy distance,
and composition error: the total variation distance between the shares of 12 clusters that are found
without the day left out. Beside them stand unlearned predictions with as many cells, and the floor:
two halves of the day left out. What is finished is appended to a file of JSON lines at once, and
skipped when the command is given again, unless the settings of a method have changed since.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time as clock
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy import sets as stored
from accuracy.heldout_scores import FLOOR, SEEDLESS, YARDSTICKS, clusters, scores, yardstick
from accuracy.heldout_table import table
from cellflow import _checks
from cellflow._processes import side_by_side
from cellflow.evaluate import Auto
from cellflow.fits import Fit
from cellflow.methods import METHODS, Method
from cellflow.timecourse import Snapshot, TimeCourse

if TYPE_CHECKING:
    from peers import TorchCFM

#: Methods of the table; the second chooses one anew for every day left out, on the others.
DEFAULT = ("reach", "auto", "otcfm", "sf2m", "uotcfm", "torchcfm")
KNOWN = {**METHODS, "auto": Auto}
UNLEARNED = (*YARDSTICKS, FLOOR)


def predicted(fit: Fit, course: TimeCourse, k: int, seed: int) -> Snapshot:
    """Predict snapshot `k` of `course`, which `fit` has not seen: cells and their masses."""
    if fit.method.both_sides:
        return fit.interpolate(course.times[k], generator=seed)
    return fit.predict(course.snapshots[k - 1], course.times[k], generator=seed)


class Job(NamedTuple):
    """Prediction of one day, left out at position `fold`, by a method or yardstick."""

    set: str
    dims: int
    time: str
    fold: int
    method: str
    seed: int


@dataclass(frozen=True)
class Run:
    """What all jobs share: where cells are and results go, cells of a day and steps at most."""

    folder: Path
    out: Path
    most_cells: int | None = None
    steps: int | None = None

    def course(self, job: Job) -> TimeCourse:
        """Return the cells of a job, in physical time."""
        return stored.read(self.folder / f"{job.set}.npz", job.dims, self.most_cells)

    def budget(self, job: Job) -> int:
        """Return the steps of a fit, of a peer as many as ours; 0 where nothing learns."""
        if job.method in UNLEARNED:
            return 0
        made = method(job.method)
        own = made if isinstance(made, Method) else Method
        return self.steps or own.default_steps

    def settings(self, job: Job) -> str:
        """Return a digest of all that a result depends on but the code."""
        facts = {} if job.method in UNLEARNED else _facts(method(job.method))
        text = json.dumps([facts, self.most_cells, self.budget(job)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def method(name: str) -> Method | TorchCFM:
    """Return a method at its defaults."""
    if name != "torchcfm":
        return KNOWN[name]()
    from peers import TorchCFM

    return TorchCFM(shared=False)  # as it is used, because it is timed


def _facts(made: object) -> dict:
    return made.facts() if isinstance(made, Method) else asdict(made)


def jobs_of(
    run: Run,
    files: Sequence[Path],
    *,
    dims: Sequence[int],
    times: Sequence[str],
    methods: Sequence[str],
    seeds: int,
) -> list[Job]:
    """Return all jobs, seed by seed, in each the largest sets first; physical time if uneven."""
    out: dict[Job, int] = {}
    for path in files:
        for dim in dims:
            course = stored.read(path, dim, run.most_cells)
            if course is None:
                print(f"{path.stem} has fewer than {dim} components: left out")
                continue
            clocks = dict.fromkeys("index" if stored.is_even(course) else time for time in times)
            for time in clocks:
                for fold in range(1, len(course) - 1):
                    for name in (*methods, *UNLEARNED):
                        for seed in range(1 if name in SEEDLESS else seeds):
                            out[Job(path.stem, dim, time, fold, name, seed)] = len(course.x)
    return sorted(out, key=lambda job: (job.seed, -out[job]))


def work(run: Run, job: Job) -> None:
    """Do one job and append its row; a failure is a row as well, which is tried again next time."""
    course = run.course(job)
    row = job._asdict() | {"settings": run.settings(job), "steps": run.budget(job)}
    row |= {"most_cells": run.most_cells, "day": course.times[job.fold]}
    row |= {"folds": len(course) - 2, "even": stored.is_even(course)}
    if job.time == "index":
        course = course.retimed(range(len(course)))
    try:
        row |= scored(run, course, job)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        row["error"] = f"{type(error).__name__}: {error}"
    with run.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def scored(run: Run, course: TimeCourse, job: Job) -> dict[str, float]:
    """Fit, predict and score."""
    k, truth, seconds = job.fold, course.snapshots[job.fold], 0.0
    training = course.without(k)
    if job.method in UNLEARNED:
        cells, truth = yardstick(job.method, course, k, job.seed)
    else:
        made = method(job.method)
        begun = clock.perf_counter()
        fit = made.fit(training, steps=run.budget(job), generator=job.seed, progress=False)
        if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
            raise KeyboardInterrupt
        seconds = clock.perf_counter() - begun
        cells = predicted(fit, course, k, job.seed)
    sizes = {"n_pred": len(cells), "n_true": len(truth)}
    n = len(course.snapshots[k - 1])
    return {"seconds": seconds} | sizes | scores(cells, truth, clusters(training), n)


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a file, of each job the last; a line that was cut off is no row."""
    rows: dict[tuple, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[tuple(row[key] for key in Job._fields)] = row
    return list(rows.values())


def _end_line(path: Path) -> None:
    """End a line that was cut off, so that the next begins a new one."""
    if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def _names(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _clocks(context: click.Context, option: click.Parameter, text: str) -> list[str]:
    return [_checks.choice(t, ("index", "physical"), "time") for t in text.split(",")]


def _usable(names: Sequence[str]) -> list[str]:
    """Return the methods of these names, less torchcfm where it cannot be imported."""
    unknown = sorted(set(names) - {*KNOWN, "torchcfm"})
    if unknown:
        known = ", ".join([*KNOWN, "torchcfm"])
        raise click.BadParameter(f"unknown {', '.join(unknown)}; there are {known}")
    out = list(names)
    if "torchcfm" in out:
        try:
            import peers  # noqa: F401
        except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch
            print(f"torchcfm is left out: {error}. It is in the extra [bench].")
            out.remove("torchcfm")
    return out


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sets", default="", callback=_names, help="Beginnings of names; all if empty.")
@click.option("--dims", default="5,50", callback=_names, help="5 are whitened, others are not.")
@click.option("--time", "times", default="index,physical", callback=_clocks)
@click.option("--methods", default=",".join(DEFAULT), callback=_names, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--most-cells", type=int, help="Of each time point; all when omitted.")
@click.option("--steps", type=int, help="Of each fit; the method's own when omitted.")
@click.option("--workers", type=int, help="Processes; one for each core when omitted.")
@click.option("--out", default="heldout.jsonl", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--print", "only_print", is_flag=True, help="Run nothing.")
def main(folder: Path, out: Path, *, only_print: bool, **asked) -> None:
    if not only_print:
        run = Run(folder.resolve(), out.resolve(), asked["most_cells"], asked["steps"])
        files = stored.chosen(run.folder, asked["sets"])
        dims, methods = [int(d) for d in asked["dims"]], _usable(asked["methods"])
        jobs = jobs_of(
            run, files, dims=dims, times=asked["times"], methods=methods, seeds=asked["seeds"]
        )
        finished = {
            (*(row[key] for key in Job._fields), row["settings"])
            for row in read_rows(out)
            if "error" not in row
        }
        todo = [job for job in jobs if (*job, run.settings(job)) not in finished]
        print(f"{len(jobs)} jobs, {len(jobs) - len(todo)} done already", flush=True)
        _end_line(out)
        side_by_side(partial(work, run), todo, workers=asked["workers"], progress=True, unit="job")
    print(table(read_rows(out)))


if __name__ == "__main__":
    main()
