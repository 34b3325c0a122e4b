"""Leave a time point out, predict it, and say how well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._processes import side_by_side
from cellflow.evaluate.scorer import DRAWS, Scorer, as_methods, as_metrics, as_seeds
from cellflow.evaluate.table import YARDSTICKS, HoldoutTable, Row
from cellflow.logging import say
from cellflow.methods import Method
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.several.members import MIN_STEPS_FOR_PROCESSES
from cellflow.simulate import SOLVERS
from cellflow.timecourse import TimeCourse


@dataclass(frozen=True, kw_only=True)
class HoldoutProtocol:
    """How a hold-out counts time, prepares coordinates and predicts.

    Parameters
    ----------
    time
        ``"physical"`` for the course's own times, ``"index"`` for 0, 1, 2, ….
    solver
        How predictions are made: see :func:`cellflow.simulate.simulate`.
    n_components, whiten
        Principal components to rotate to first, when the course holds expression; and whether to
        scale each dimension to unit standard deviation.
    preprocess_on
        ``"all"`` fits components and scales on all cells (the papers' protocol), ``"train"``
        without the held-out ones.
    """

    time: str = "physical"
    solver: str = "rk4"
    n_components: int | None = None
    whiten: bool = False
    preprocess_on: str = "all"

    def __post_init__(self) -> None:
        _checks.choice(self.time, ("physical", "index"), "time")
        _checks.choice(self.solver, SOLVERS, "solver")
        _checks.choice(self.preprocess_on, ("all", "train"), "preprocess_on")

    def preprocessing(self, course: TimeCourse) -> Preprocessing | None:
        """Return the way to the coordinates, from the cells of `course`; None where they stay."""
        if self.n_components is None and not self.whiten:
            return None
        return fit_preprocessing(course.x, n_components=self.n_components, whiten=self.whiten)


class Chooser(ABC):
    """What a method is, too, that chooses by the days it may see which of several to fit."""

    @abstractmethod
    def chosen(
        self,
        course: TimeCourse,
        protocol: HoldoutProtocol,
        *,
        steps: int | None,
        workers: int | None = None,
        progress: bool | None = None,
        ranks: ProcessGroup | None = None,
    ) -> tuple[Method, str]:
        """Return the method chosen on `course`, and a sentence that says why.

        With `protocol`, `steps`, `workers`, `progress` and `ranks` as in :func:`holdout`.
        """


def holdout(
    course: TimeCourse,
    methods: Method | Sequence[Method],
    *,
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    protocol: HoldoutProtocol = HoldoutProtocol(),
    metrics: Sequence[str] = ("w1", "w2", "energy"),
    workers: int | None = None,
    progress: bool | None = None,
    ranks: ProcessGroup | None = None,
) -> HoldoutTable:
    """Leave out each interior time point in turn, and predict it from the one before.

    For every interior time point the methods are trained on all others; then the cells of the
    previous time point are pushed to it and compared with the cells that were really there. Beside
    them stand six predictions that need no model — the cells of the time point before and after,
    both pooled, and their interpolations by exact optimal transport and by transport within the
    measured reach, that also on the tempered clock — and the floor: the distance between two random
    halves of the held-out cells, below which nothing is visible. By the first metric, all
    predictions are also scored against the same 20 bootstrap draws of the cells, which say how far
    a verdict depends on the cells that happened to be sampled. Cells weigh by their masses, and
    those carried to a later time keep them or, where the method learned growth, grow.

    Folds, methods and seeds share nothing but the cells, so they run side by side, fitted and
    scored in one go. Couplings are not shared: those of a fit follow from its seed and all of its
    snapshots, and each fold has others.

    Parameters
    ----------
    course
        At least three snapshots.
    methods
        One or several methods, of distinct names. One that chooses, such as
        :class:`~cellflow.evaluate.Auto`, does so for each time point, on the others.
    steps, seeds
        Training steps of each fit, and the number of seeds (0, 1, …), or the seeds.
    protocol, metrics
        Clock, coordinates and solver; and any of ``"w1"``, ``"w2"``, ``"energy"``, of which the
        first decides the verdicts.
    workers
        Processes, each with one thread; as many as there are cores when omitted, if the steps
        are worth starting them; 1 for none. The table is the same to the bit. On a GPU, all is
        done in this process.
    progress
        Whether to show a bar over fits and yardsticks on standard error; by default as
        ``cf.settings.verbosity`` says.
    ranks
        Processes that each call this, share the work, and all get the table:
        see :func:`cellflow.several.join_process_group`.
    """
    metrics = as_metrics(metrics)
    methods, seeds = as_methods(methods), as_seeds(seeds)
    if len(course) < 3:
        remedy = "Only a time point between two others can be held out."
        raise ValueError(_checks.message("course", f"{len(course)} time points", "3", remedy))
    _checks.count(steps, "steps")
    clock = course if protocol.time == "physical" else course.retimed(range(len(course)))
    folds, own = range(1, len(course) - 1), {}
    if protocol.preprocess_on == "train":
        own = {k: protocol.preprocessing(clock.without(k)) for k in folds}
    elif prep := protocol.preprocessing(clock):
        clock = clock.map(prep.apply)
    named, solver = {m.name: m for m in methods}, protocol.solver
    task = _Task(clock, named, metrics, steps, course.times, own, solver)
    for k in folds:
        task.choose(k, workers=workers, progress=progress, ranks=ranks)
    how: dict[str, Any] = {"workers": workers, "progress": progress, "ranks": ranks}
    rows = all_rows(_rows, task, folds, seeds=seeds, yardsticks=YARDSTICKS, **how)
    return HoldoutTable(rows, course.unit)


class Job(NamedTuple):
    """Prediction of the fold `k`, a time point or a condition, by a `name` and for a seed.

    The name is that of a yardstick or of a method.
    """

    k: int
    name: str
    seed: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """What all predictions of an evaluation share: cells, methods by name, and settings."""

    course: TimeCourse
    methods: dict[str, Method]
    metrics: Sequence[str]
    steps: int


P = TypeVar("P", bound=Predictions)


def all_rows(
    rows_of: Callable[[P, Job], list[Row]],
    task: P,
    folds: Sequence[int],
    *,
    seeds: Sequence[int],
    yardsticks: Sequence[str],
    workers: int | None,
    progress: bool | None,
    ranks: ProcessGroup | None = None,
) -> tuple[Row, ...]:
    """Return what `rows_of` makes of all jobs of a `task`, side by side.

    Each of the `folds` is predicted by the `yardsticks`, of which the last is the floor, and by
    every method, for each of the `seeds`; `workers`, `progress` and `ranks` as in :func:`holdout`.
    """
    *fixed, floor = yardsticks  # only the floor has a spread over seeds
    each = [(name, seeds[:1]) for name in fixed] + [(m, seeds) for m in (floor, *task.methods)]
    jobs = [Job(k, name, seed) for k in folds for name, some in each for seed in some]
    fits_first = sorted(jobs, key=lambda job: job.name in yardsticks)  # they take longest
    done = (ranks or ProcessGroup()).shared(
        fits_first,
        lambda mine: side_by_side(
            partial(rows_of, task),
            mine,
            workers=workers,
            heavy=task.steps * sum(job.name in task.methods for job in mine)
            >= MIN_STEPS_FOR_PROCESSES,
            here=task.course.x.device.type != "cpu",
            progress=progress,
            unit="job",
        ),
    )
    rows = dict(zip(fits_first, done, strict=True))
    return tuple(row for job in jobs for row in rows[job])


@dataclass(frozen=True, eq=False)
class _Task(Predictions):
    """Cells, methods and settings of all predictions."""

    held_out: Sequence[float]
    preprocessing: dict[int, Preprocessing | None]
    solver: str
    chosen: dict[tuple[int, str], Method] = field(default_factory=dict)

    def fold(self, k: int) -> TimeCourse:
        """Return all cells in the coordinates of the predictions of snapshot `k`."""
        prep = self.preprocessing.get(k)
        return self.course if prep is None else self.course.map(prep.apply)

    def choose(
        self, k: int, *, workers: int | None, progress: bool | None, ranks: ProcessGroup | None
    ) -> None:
        """Let methods that choose do so without snapshot `k`."""
        for name, method in self.methods.items():
            if not isinstance(method, Chooser):
                continue
            course, protocol = self.fold(k).without(k), HoldoutProtocol(solver=self.solver)
            self.chosen[k, name], reason = method.chosen(
                course, protocol, steps=self.steps, workers=workers, progress=progress, ranks=ranks
            )
            say(f"{name} without {self.held_out[k]:g}: {reason}", show=progress)


def _rows(task: _Task, job: Job) -> list[Row]:
    k, seed = job.k, job.seed
    fold = task.fold(k)
    score = Scorer(task.held_out[k], fold.snapshots[k], task.metrics, DRAWS)
    if job.name in YARDSTICKS:
        return score.yardstick(job.name, fold, k, seed=seed)
    method = task.chosen.get((k, job.name), task.methods[job.name])
    fit = method.fit(fold.without(k), steps=task.steps, generator=seed, progress=False)
    if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
        raise KeyboardInterrupt
    start, end = fold.snapshots[k - 1 : k + 1]
    if method.both_sides:
        cells = fit.interpolate(end.time, solver=task.solver, generator=seed)
    else:
        cells = fit.predict(start, end.time, solver=task.solver, generator=seed)
    return score(job.name, seed, cells)
