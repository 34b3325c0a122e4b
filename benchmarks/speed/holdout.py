"""A hold-out table side by side, against as many torchcfm runs of as many steps.

    python benchmarks/speed/holdout.py FOLDER           # of eb_sub2750_pca100.npz
    python benchmarks/speed/holdout.py FOLDER --quick   # what the table of speed shows

Embryoid bodies in 5 whitened components: 3 interior time points x 5 seeds. Ours is timed whole:
starting the workers, fits, predictions, exact distances, yardsticks. torchcfm is timed over its
training steps alone, from cells that are already drawn, on one thread, in turn; the quick row
times a share of them and says so. The long form adds the same 15 fits without predictions and
distances, as three ensembles of five. Then the time of an ensemble over its number of members.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

import click
import torch
from timing import Row, peak_mb, print_rows

from cellflow import _processes
from cellflow.evaluate import holdout
from cellflow.methods import OTCFM
from cellflow.several import fit_members
from cellflow.timecourse import TimeCourse
from cellflow.training import FitOptions
from training import read

sys.path.insert(0, str(Path(__file__).parents[1]))

DATA = "eb_sub2750_pca100.npz"
SEEDS, BATCH, WORKERS, STEPS = 5, 256, 2, 3000


def rows(data: Path, *, quick: bool = True) -> Iterator[Row]:
    """The table, its fits alone, and ensembles of 1 to 8."""
    course = read(Path(data) / DATA, 5)
    share = 0.004 if quick else 1.0
    folds = range(1, len(course) - 1)
    first = their_seconds(course, STEPS, share)
    kept = {"workers": WORKERS, "progress": False}
    whole = seconds(lambda: holdout(course, OTCFM(), steps=STEPS, seeds=SEEDS, **kept))
    memory = sum(workers_peaks()) + peak_mb()
    second = their_seconds(course, STEPS, share) if share < 1 else first
    theirs = fmean([first, second])
    work = f"hold-out table, {len(folds)} folds x {SEEDS} seeds, {STEPS} steps, {WORKERS} cores"
    note = f"{share:.1%} of their steps timed, before and after" if share < 1 else ""
    yield Row(
        work,
        f"{len(folds) * SEEDS} torchcfm runs",
        whole,
        theirs,
        "s",
        "≥ 20x",
        theirs / whole,
        note,
        memory,
    )
    if not quick:
        fits = seconds(lambda: fits_alone(course, **kept))
        yield Row("its fits, workers warm", "the same", fits, theirs, "s", "-", theirs / fits)
    yield from curve(course, steps=500 if quick else 3000)


def fits_alone(course: TimeCourse, *, workers: int | None, progress: bool) -> None:
    """The fits of the table without its predictions and scores."""
    options = FitOptions(steps=STEPS, progress=progress)
    for k in range(1, len(course) - 1):
        fit_members(OTCFM(), course.without(k), options, members=SEEDS, workers=workers)


def curve(course: TimeCourse, *, steps: int) -> Iterator[Row]:
    """Seconds of ensembles, against fits in turn."""
    OTCFM().fit(course, steps=20, progress=False)  # reads the compiled kernels
    alone = seconds(lambda: OTCFM().fit(course, steps=steps, progress=False))
    options = FitOptions(steps=steps, progress=False)
    for members in (2, 4, 8):
        several = partial(fit_members, members=members, workers=WORKERS)
        ours = seconds(partial(several, OTCFM(), course, options))
        turn = members * alone
        work = f"{members} members, {steps} steps, {WORKERS} cores"
        yield Row(work, "one fit, times that", ours, turn, "s", "-", turn / ours)


def their_seconds(course: TimeCourse, steps: int, share: float) -> float:
    """Seconds of all torchcfm runs, from a share of each one's steps."""
    from peers import Loop

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    total = 0.0
    try:
        for k in range(1, len(course) - 1):
            for seed in range(SEEDS):
                loop = Loop(course.without(k), "otcfm", BATCH, seed)
                loop.advance()
                part = max(1, round(share * steps))
                start = time.perf_counter()
                for _ in range(part):
                    loop.advance()
                total += (time.perf_counter() - start) * steps / part
    finally:
        torch.set_num_threads(threads)
    return total


def workers_peaks() -> list[float]:
    """Peak memory of each worker, in MB."""
    return _processes.side_by_side(_peak, range(WORKERS), workers=WORKERS)


def _peak(job: int) -> float:
    time.sleep(0.5)  # so that each worker has one of the jobs
    return peak_mb()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="What the table of speed shows.")
def main(folder: Path, *, quick: bool) -> None:
    print_rows(rows(folder, quick=quick))


if __name__ == "__main__":
    main()
