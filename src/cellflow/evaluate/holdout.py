"""Leave a time point out, predict it, and say how well."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from cellflow import _checks
from cellflow.evaluate.arguments import as_methods, as_seeds
from cellflow.evaluate.scorer import METRICS, Scorer
from cellflow.evaluate.table import HoldoutTable, Row
from cellflow.methods import Method
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.simulate import SOLVERS
from cellflow.timecourse import TimeCourse


def holdout(
    course: TimeCourse,
    methods: Method | Sequence[Method],
    *,
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    time: str = "physical",
    solver: str = "rk4",
    n_components: int | None = None,
    whiten: bool = False,
    preprocess_on: str = "all",
    metrics: Sequence[str] = ("w1", "w2", "energy"),
    progress: bool = True,
) -> HoldoutTable:
    """Leave out each interior time point in turn, and predict it from the one before.

    For every interior time point the methods are trained on all others; then the cells of the
    previous time point are pushed to it and compared with the cells that were really there.
    Beside them stand four predictions that need no model — the cells of the time point before
    and after, both pooled, and their exact optimal-transport interpolation — and the floor:
    the distance between two random halves of the held-out cells, below which nothing is visible.
    Cells weigh by their masses, and those carried to a later time keep them or, where the method
    learned growth, grow.

    Parameters
    ----------
    course
        At least three snapshots.
    methods
        One or several methods, of distinct names.
    steps
        Training steps of each fit.
    seeds
        Number of seeds (0, 1, …), or the seeds.
    time
        ``"physical"`` for the course's own times, ``"index"`` for 0, 1, 2, ….
    solver
        How predictions are made: see :func:`cellflow.simulate.simulate`.
    n_components
        Principal components to rotate to first, when the course holds expression.
    whiten
        Whether to scale each dimension to unit standard deviation.
    preprocess_on
        ``"all"`` fits components and scales on all cells (the papers' protocol), ``"train"``
        without the held-out ones.
    metrics
        Any of ``"w1"``, ``"w2"``, ``"energy"``; the first one decides the verdicts.
    progress
        Whether to show bars on standard error.

    Returns
    -------
    HoldoutTable
        The rows; print it, or ask for its verdicts.

    Raises
    ------
    ValueError
        If there are fewer than three snapshots, an option is unknown, or methods share a name.
    """
    _checks.choice(time, ("physical", "index"), "time")
    _checks.choice(solver, SOLVERS, "solver")
    _checks.choice(preprocess_on, ("all", "train"), "preprocess_on")
    metrics = [_checks.choice(m, METRICS, "metrics") for m in metrics]
    if not metrics:
        raise ValueError(_checks.message("metrics", "none", f"some of {', '.join(METRICS)}"))
    methods, seeds = as_methods(methods), as_seeds(seeds)
    if len(course) < 3:
        remedy = "Only a time point between two others can be held out."
        raise ValueError(_checks.message("course", f"{len(course)} time points", "3", remedy))
    times = course.times
    clock = course if time == "physical" else course.retimed(range(len(course)))
    shared = _preprocess(clock, n_components, whiten) if preprocess_on == "all" else None
    rows: list[Row] = []
    folds = range(1, len(course) - 1)
    with tqdm(total=len(folds) * (1 + len(methods) * len(seeds)), disable=not progress) as bar:
        for k in folds:
            bar.set_description(f"held out {times[k]:g}")
            prep = shared or _preprocess(clock.without(k), n_components, whiten)
            fold = clock.map(prep.apply) if prep is not None else clock
            score = Scorer(times[k], fold.snapshots[k], metrics)
            rows += score.yardsticks(fold, k, seeds)
            bar.update()
            for method in methods:
                for seed in seeds:
                    fit = method.fit(fold.without(k), steps=steps, generator=seed, progress=False)
                    if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
                        raise KeyboardInterrupt
                    start, end = fold.snapshots[k - 1 : k + 1]
                    cells = fit.carry(start, end.time, solver=solver, generator=seed)
                    rows += score(method.name, seed, cells)
                    bar.update()
    return HoldoutTable(tuple(rows), course.unit)


def _preprocess(course: TimeCourse, n_components: int | None, whiten: bool) -> Preprocessing | None:
    if n_components is None and not whiten:
        return None
    return fit_preprocessing(course.x, n_components=n_components, whiten=whiten)
