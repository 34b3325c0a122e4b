"""Sweep over diffusions: each predicts interior time points that were left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch

from cellflow import _checks
from cellflow._processes import side_by_side
from cellflow._random import shuffle, stream_rng, stream_seed
from cellflow._typing import Tensor
from cellflow.evaluate.scorer import Scorer, as_metrics, as_seeds
from cellflow.evaluate.table import SigmaRow, SigmaSweep
from cellflow.methods import SF2M, FlowMatching, Method
from cellflow.methods.recipes import RELATIVE_SIGMA
from cellflow.paths import Pairs
from cellflow.several.members import MIN_STEPS_FOR_PROCESSES
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import natural_sigma

#: Multiples of the data's own diffusion that are tried when none are given.
GRID = tuple(round(0.05 * 2 ** (k / 2), 4) for k in range(11))


def sigma_sweep(
    course: TimeCourse,
    method: Callable[[float], FlowMatching] = SF2M,
    *,
    sigmas: Sequence[float] | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 5,
    n_cells: int = 500,
    metrics: Sequence[str] = ("energy", "w1"),
    workers: int | None = None,
    progress: bool | None = None,
) -> SigmaSweep:
    r"""Try diffusions: predict each interior time point without having seen it.

    By itself, the diffusion :math:`\sigma` of a Schrödinger bridge is not learned: it is assumed,
    and snapshots at two times are matched exactly by any. A third time between them is not, and
    this is what the sweep looks at. Each interior time point is left out in turn and predicted
    from the one before and the one after.

    The bridge's law at the time left out is known without a network: it is the mixture of the
    Brownian bridges between coupled cells (Tong et al. 2023, [SF]2M, proposition 3.1), so by
    default cells are drawn from it, in seconds. With `steps`, networks are trained and the cells
    of the time point before are carried on by the stochastic dynamics.

    Each seed scores against another random half of the cells left out, so the spread over seeds
    stands for the sampling of these cells too (the delete-half jackknife). Without an interior
    time point there are no rows, and the best is the default of :func:`~cellflow.methods.SF2M`.

    Parameters
    ----------
    course, method
        Snapshots to choose by, in the coordinates of the model, without the days that a final
        figure is to be scored on (:func:`without_times`). And from a diffusion to a method:
        ``SF2M``, or such as ``lambda s: SF2M(s, coupling="exact")``.
    sigmas
        Diffusions to try, data units per square root of time, positive; a logarithmic grid from
        0.05 to 1.6 times :func:`~cellflow.training.cells.natural_sigma` when omitted.
    steps
        Training steps of a network for each diffusion, time point and seed; None for no networks.
    seeds, n_cells
        Number of seeds (0, 1, …), or the seeds; and how many cells of each time point at most,
        drawn anew by each seed.
    metrics
        Any of ``"w1"``, ``"w2"``, ``"energy"``; the first one decides.
    workers, progress
        As in :func:`holdout`; where `workers` are omitted, there are several if networks are
        learned.
    """
    metrics = as_metrics(metrics)
    seeds = as_seeds(seeds)
    if steps is not None:
        _checks.count(steps, "steps")
    _checks.count(n_cells, "n_cells", low=4)
    natural = natural_sigma(course)
    tried = _as_sigmas(sigmas, natural)
    with _checks.by_function("method"):
        recipes = [method(s) for s in tried]
    for made in recipes:
        if not isinstance(made, Method):
            got = f"a function that returns a {type(made).__name__}"
            raise TypeError(_checks.message("method", got, "a recipe, such as OTCFM"))
    # The law at a time left out is that of paths between coupled cells, unless these use rates.
    if steps is None and any(
        not isinstance(m, FlowMatching) or m.path.needs_rates for m in recipes
    ):
        expected = "one of straight pairs, whose law between two time points needs no network"
        got = f"{recipes[0].name!r}"
        raise ValueError(_checks.message("method", got, expected, "Set steps=1000."))
    task = _Task(course, tuple(zip(tried, recipes, strict=True)), metrics, n_cells, steps)
    jobs = list(product(range(1, len(course) - 1), seeds, range(len(tried))))
    rows = side_by_side(
        partial(_rows, task),
        jobs,
        workers=workers,
        heavy=len(jobs) * (steps or 0) >= MIN_STEPS_FOR_PROCESSES,
        here=course.x.device.type != "cpu",
        progress=progress,
        unit="sigma",
    )
    return SigmaSweep(
        tuple(row for some in rows for row in some),
        natural=natural,
        default=RELATIVE_SIGMA * natural,
        metric=metrics[0],
        unit=course.unit,
        learned=steps is not None,
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """Cells, diffusions with their methods, and settings of all predictions."""

    course: TimeCourse
    tried: tuple[tuple[float, FlowMatching], ...]
    metrics: Sequence[str]
    n_cells: int
    steps: int | None


def _rows(task: _Task, job: tuple[int, int, int]) -> list[SigmaRow]:
    """Rows of one time point, seed and diffusion."""
    k, seed, j = job
    sigma, recipe = task.tried[j]
    fold, truth = _drawn(task.course, k, seed, task.n_cells)
    if task.steps is not None:
        cells = _learned(fold, recipe, k, truth.time, steps=task.steps, seed=seed)
    else:
        cells = _unlearned(fold, recipe, k, truth.time, seed=seed)
    rows = Scorer(truth.time, truth, task.metrics)(recipe.name, seed, cells)
    return [SigmaRow(sigma, truth.time, seed, r.metric, r.value) for r in rows]


def without_times(course: TimeCourse, exclude: Sequence[float]) -> TimeCourse:
    """Return `course` without the snapshots at the times in `exclude`."""
    known, exclude = ", ".join(f"{t:g}" for t in course.times), _checks.several(exclude, "exclude")
    for time in exclude:
        if _checks.number(time, "exclude") not in course.times:
            raise ValueError(_checks.message("exclude", f"{time:g}", f"some of {known}"))
    kept = tuple(s for s in course.snapshots if s.time not in set(exclude))
    if len(kept) < 2:
        got = f"{len(set(exclude))} of {len(course)} time points"
        raise ValueError(_checks.message("exclude", got, "at least two time points to be left"))
    return replace(course, snapshots=kept)


def _as_sigmas(sigmas: Sequence[float] | None, natural: float) -> list[float]:
    if sigmas is None:
        return [multiple * natural for multiple in GRID]
    given = _checks.as_numbers(sigmas, "sigmas").double().flatten().tolist()
    out = sorted({_checks.number(s, "sigmas", low=0.0, open_low=True) for s in given})
    if not out:
        raise ValueError(_checks.message("sigmas", "none", "at least one positive number"))
    return out


def _drawn(course: TimeCourse, k: int, seed: int, n_cells: int) -> tuple[TimeCourse, Snapshot]:
    """Cells to learn from, and a random half of those left out, for one `seed`."""
    parts = []
    for index, s in enumerate(course.snapshots):
        most = min(n_cells, (len(s) + 1) // 2 if index == k else len(s))
        parts.append(s.subset(shuffle(len(s), stream_rng(seed, index, 30))[:most].to(s.x.device)))
    truth = parts.pop(k)
    return replace(course, snapshots=tuple(parts)), truth


def _learned(
    fold: TimeCourse, method: FlowMatching, k: int, time: float, *, steps: int, seed: int
) -> Snapshot:
    """Cells before the gap at `k`, carried on to `time` by fitted stochastic dynamics."""
    fit = method.fit(fold, steps=steps, generator=seed, progress=False)
    if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
        raise KeyboardInterrupt
    solver = "rk4" if fit.dynamics.score is None else "euler_maruyama"
    generator = stream_seed(seed, k, 31)
    return fit.predict(fold.snapshots[k - 1], time, solver=solver, generator=generator)


def _unlearned(
    fold: TimeCourse, method: FlowMatching, k: int, time: float, *, seed: int
) -> Snapshot:
    """Cells at `time` on the paths between cells coupled across the gap at `k`."""
    before, after = fold.snapshots[k - 1 : k + 1]
    plan = method.coupling(before, after)
    # The same seed for all diffusions: they differ by the noise's size, not by its draw.
    generator = torch.Generator(before.x.device).manual_seed(stream_seed(seed, k, 32))
    rows, cols = plan.sample(max(len(before), len(after)), stream_seed(seed, k, 33))
    span = after.time - before.time

    def filled(value: float) -> Tensor:
        return before.x.new_full((len(rows), 1), value)

    growth = None
    if plan.source_growth is not None and plan.target_growth is not None:
        growth = (plan.source_growth[rows] + plan.target_growth[cols])[:, None].to(before.x) / span
    pairs = Pairs(before.x[rows], after.x[cols], filled(before.time), filled(after.time), growth)
    noise = torch.empty_like(pairs.x0).normal_(generator=generator)
    point = method.path.at(pairs, filled((time - before.time) / span), noise)
    cells = Snapshot(point.x, time)
    return cells if point.weight is None else replace(cells, mass=point.weight)
