"""Seconds to the held-out W1 of a converged torchcfm run, on one thread.

    python benchmarks/speed/quality.py cite13176_pca100.npz            # 5 seeds: half an hour
    python benchmarks/speed/quality.py cite13176_pca100.npz --seeds 2 --cpu
    python benchmarks/speed/quality.py FOLDER --choose

**Protocol.** Five whitened components, index time; each interior day is left out and predicted
from the day before, of which 2,000 cells are carried by the same solver and compared (exact W1)
with 2,000 of the day: the same cells for both, others for every seed. Cells, preprocessing, network
(MLP 3 x 64, SELU), optimiser and noise of the path are the same. The clocks count training alone:
theirs from the first step on, ours the whole fit with setting up, couplings and validation.

**torchcfm** trains as it does, with a constant learning rate and 128 pairs of an interval in a step
(the paper's), far beyond what it needs, and is scored at checkpoints. Its level is the mean over
days, seeds and the last half of the checkpoints. It has converged at the first checkpoint at which
the mean over days and seeds, averaged with its two neighbours, is within 1 % of the level; it need
not stay there. **Ours** is trained from scratch with ever larger budgets, up to the first one whose
mean W1 is no larger than torchcfm's when it had converged. A second row asks more of ours alone:
the level itself.

**Our settings**, a learning rate of 2e-2 that decays over the budget and 64 pairs in blocks of 128,
were chosen on other data: embryoid bodies, epithelial-mesenchymal transition, embryonic stem cells
(`--choose` prints the table). The budget is what is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import click
import numpy as np
import torch
from timing import Row, print_rows, skip_aloud

from cellflow.batches import Batching
from cellflow.dynamics import Dynamics
from cellflow.methods import OTCFM, FlowMatching
from cellflow.metrics import wasserstein1
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import simulate
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import Training

sys.path.insert(0, str(Path(__file__).parents[1]))

FILE = "cite13176_pca100.npz"
OTHERS = ("eb_sub2750_pca100", "emt_ae10", "semrau_mesc_ra41")
BUDGETS = (50, 100, 150, 200, 250, 300, 350, 400, 500)
LARGER = (600, 700, 800, 1000, 1500, 2000, 3000)  # tried where none of these will do
CELLS = 2000
THEIR_PAIRS = 128  # of an interval in a step, as in the paper
PAIRS, BLOCK = 64, 128
EVERY = 250
LEARNING_RATE = 2e-2
Clock = Callable[[], float]


def read(path: Path, dims: int = 5) -> TimeCourse:
    """Whitened components at times 0, 1, 2, …; every other time point where there are many."""
    with np.load(path) as stored:
        x, t = stored["X"].astype(np.float32), stored["t"]
    if "semrau" in path.stem:
        x = np.log1p(x)  # counts
    times = np.unique(t)
    xs = [torch.from_numpy(x[t == k]) for k in (times[::2] if len(times) > 6 else times)]
    course = TimeCourse.from_arrays(xs)
    return course.map(fit_preprocessing(course.x, n_components=dims, whiten=True).apply)


def ours(learning_rate: float = LEARNING_RATE, pairs: int = PAIRS) -> FlowMatching:
    """OT-CFM in a hurry."""
    return OTCFM(
        net=MLPConfig(64, 3, "selu"),
        batching=Batching(pairs, BLOCK, prefetch=False),
        training=Training(learning_rate=learning_rate),
    )


@dataclass(frozen=True)
class Case:
    """One time point left out, and one seed."""

    course: TimeCourse
    held: int
    seed: int

    @property
    def rest(self) -> TimeCourse:
        """What is trained on."""
        return self.course.without(self.held)

    def score(self, dynamics: Dynamics) -> float:
        """Exact W1 of the prediction of at most `CELLS` cells."""
        generator = torch.Generator().manual_seed(self.seed)
        before, after = self.course.snapshots[self.held - 1 : self.held + 1]
        size = min(len(before), len(after), CELLS)
        x, y = (s.x[torch.randperm(len(s), generator=generator)[:size]] for s in (before, after))
        step = (after.time - before.time) / 10
        end = simulate(dynamics, x, [before.time, after.time], max_step=step).final
        return wasserstein1(end, y)


def cases(course: TimeCourse, seeds: int) -> list[Case]:
    """Return every interior time point with every seed."""
    return [Case(course, k, s) for s in range(seeds) for k in range(1, len(course) - 1)]


def their_curve(case: Case, steps: int, pairs: int, clock: Clock) -> np.ndarray:
    """Seconds and W1 at checkpoints, shape (checkpoints, 2)."""
    from peers import Field, Loop

    loop = Loop(case.rest, "otcfm", pairs, case.seed)
    out, seconds = [], 0.0
    for _ in range(steps // EVERY):
        start = clock()
        for _ in range(EVERY):
            loop.advance()
        seconds += clock() - start
        with torch.no_grad():
            out.append((seconds, case.score(Dynamics(Field(loop.net)))))
    return np.array(out)


def our_point(case: Case, method: FlowMatching, steps: int, clock: Clock) -> tuple[float, float]:
    """Seconds and W1 of one fit."""
    start = clock()
    fit = method.fit(case.rest, steps=steps, generator=case.seed, progress=False)
    return clock() - start, case.score(fit.dynamics)


def converged(curves: np.ndarray) -> tuple[int, float, float]:
    """Checkpoint at which `curves` (runs, checkpoints, 2) have converged, W1 there, level."""
    mean = curves[:, :, 1].mean(0)
    smooth = np.array([mean[max(0, k - 1) : k + 2].mean() for k in range(len(mean))])
    level = float(mean[len(mean) // 2 :].mean())
    at = int(np.argmax(smooth <= 1.01 * level))
    return at, float(smooth[at]), level


def to_quality(
    course: TimeCourse, *, seeds: int, steps: int, pairs: int = THEIR_PAIRS, clock: Clock
) -> Iterator[Row]:
    """Train both on all cases, in turn, and yield the rows."""
    chosen, method = cases(course, seeds), ours()
    our_point(chosen[0], method, 5, clock)  # compiles what is compiled
    their_curve(chosen[0], EVERY, pairs, clock)
    curves, points = [], {budget: [] for budget in BUDGETS}
    for case in chosen:
        curves.append(their_curve(case, steps, pairs, clock))
        for budget in BUDGETS:
            points[budget].append(our_point(case, method, budget, clock))
    curves = np.array(curves)
    at, there, level = converged(curves)
    for budget in LARGER:
        if min(map(_w1, points.values())) > level:
            points[budget] = [our_point(case, method, budget, clock) for case in chosen]
    for k, (seconds, value) in enumerate(curves.mean(0)):
        line = f"  theirs, {(k + 1) * EVERY} steps: {seconds:.2f} s, W1 {value:.4f}"
        print(line, file=sys.stderr)
    for budget, found in points.items():
        print(f"  ours, {budget} steps: {_means(found)}", file=sys.stderr)
    size = f"torchcfm loop, {pairs} pairs"
    steps_of_theirs = f"{(at + 1) * EVERY} of {steps}"
    theirs = curves[:, at, 0].tolist()
    for name, goal, target in (
        ("seconds to converged W1", there, "≥ 30x"),
        ("ours alone to the W1 of its last half", min(level, there), ""),
    ):
        yield row(f"{name}, {course.dim}-D", size, points, (goal, theirs, steps_of_theirs), target)


def row(
    work: str,
    against: str,
    points: dict[int, list[tuple[float, float]]],
    goal_and_theirs: tuple[float, list[float], str],
    target: str,
) -> Row:
    """One row: the first of our budgets that reaches the goal."""
    goal, theirs, steps = goal_and_theirs
    budget = next((b for b in points if _w1(points[b]) <= goal), max(points))
    reached = _w1(points[budget]) <= goal
    seconds = [point[0] for point in points[budget]]
    ratios = [b / a for a, b in zip(seconds, theirs, strict=True)]
    note = (
        f"W1 {_w1(points[budget]):.3f} in {budget} steps, {goal:.3f} in {steps}; "
        f"{len(theirs)} fits each" + ("" if reached else "; NOT REACHED")
    )
    a, b = fmean(seconds), fmean(theirs)
    span, met = (min(ratios), max(ratios)), None if reached else False
    return Row(work, against, a, b, "s", target, b / a, note, span=span, met=met)


def _w1(points: list[tuple[float, float]]) -> float:
    return fmean(point[1] for point in points)


def _means(points: list[tuple[float, float]]) -> str:
    return f"{fmean(point[0] for point in points):.3f} s, W1 {_w1(points):.4f}"


def rows(data: Path, *, quick: bool = True) -> Iterator[Row]:
    """Seconds to quality: two seeds when quick, else five and also torchcfm's own batch."""
    try:
        import peers  # noqa: F401 - only to know whether it is there
    except ImportError as error:
        skip_aloud("torchcfm", error)
        return
    torch.set_num_threads(1)
    course = read(data / FILE)
    if quick:
        yield from to_quality(course, seeds=2, steps=3500, clock=time.perf_counter)
        return
    for pairs in (THEIR_PAIRS, 256):
        yield from to_quality(course, seeds=5, steps=6000, pairs=pairs, clock=time.perf_counter)


def choose(folder: Path) -> None:
    """Print CPU seconds and W1 of settings on data that the row is not about."""
    courses = [read(folder / f"{name}.npz") for name in OTHERS]
    our_point(cases(courses[0], 1)[0], ours(), 5, time.process_time)
    for learning_rate in (1e-2, 2e-2, 3e-2):
        for pairs in (64, 128):
            method = ours(learning_rate, pairs)
            for steps in (50, 100, 200):
                line = f"rate {learning_rate:g}, {pairs:>3} pairs, {steps:>3} steps"
                for course in courses:
                    found = [
                        our_point(c, method, steps, time.process_time) for c in cases(course, 2)
                    ]
                    line += f" | {_means(found)}"
                print(line, flush=True)


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5)
@click.option("--steps", default=6000, help="Of torchcfm.")
@click.option("--pairs", default=THEIR_PAIRS, help="Of an interval in a step of torchcfm.")
@click.option("--cpu", is_flag=True, help="Count CPU time: for a busy machine.")
@click.option("--choose", "choosing", is_flag=True, help="Compare settings on other data.")
def main(path, seeds, steps, pairs, cpu, choosing) -> None:
    torch.set_num_threads(1)
    if choosing:
        choose(path)
        return
    clock = time.process_time if cpu else time.perf_counter
    print_rows(to_quality(read(path), seeds=seeds, steps=steps, pairs=pairs, clock=clock))


if __name__ == "__main__":
    main()
