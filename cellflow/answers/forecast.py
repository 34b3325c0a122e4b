"""Cells after the last time, and how far off that would have been for courses cut short."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Field, Rng, Tensor
from cellflow.fits import Fit
from cellflow.methods import Method
from cellflow.metrics import METRICS, split_half_floor
from cellflow.timecourse import Snapshot


@dataclass(frozen=True)
class ForecastError:
    """W1 distances, in data units, between predictions of the cells of `time` and those cells.

    They know what was observed until `ahead` units of time before: the `model`, the `last` snapshot
    as it was, and that moved on as its `mean` did since the one before it. The `floor` is between
    two halves of the cells, which are fewer: a good prediction may be below it.
    """

    time: float
    ahead: float
    model: float
    last: float
    mean: float
    floor: float


def held(fit: Fit) -> Fit:
    """Return `fit` with dynamics that stay, after its last snapshot, as they were at that time.

    No later time was learned, and what networks make of one is worse than that. Cells keep their
    masses: rates of growth add up to exponents, and leave few cells that count.
    """
    last = fit.course.times[-1]
    end = last if fit.clock is None else float(fit.clock(torch.tensor(last, dtype=torch.float64)))
    dynamics = fit.dynamics

    def stopped(field: Field) -> Field:
        return lambda t, x: field(t.clamp(max=end), x)

    velocity = stopped(dynamics.velocity)
    score = None if dynamics.score is None else stopped(dynamics.score)
    return replace(fit, dynamics=replace(dynamics, velocity=velocity, score=score, growth=None))


def forecast_errors(
    fit: Fit, *, cuts: int = 2, steps: int | None = None, solver: str = "rk4", generator: Rng = 0
) -> list[ForecastError]:
    """Forecast each of the last `cuts` snapshots of a fit's course from those before it.

    By its method, fitted again with so many `steps` (those of the fit when omitted) in the same
    coordinates, :func:`held` and carried on by `solver`, with a seed of `generator`. Two snapshots
    are left at least, however many `cuts` there are.
    """
    course, method, seed = fit.course, fit.method, draw_seed(generator)
    cuts, out = min(_checks.count(cuts, "cuts"), len(course) - 2), []
    if cuts < 1:
        raise ValueError(_checks.message("fit", f"{len(course)} times", "three or more"))
    if not isinstance(method, Method):
        expected = "a method to fit again: that of a fit of this session"
        raise ValueError(_checks.message("fit", f"{type(method).__name__}", expected))
    if steps is None and fit.history.step:
        steps = fit.history.step[-1]
    for k in range(len(course) - cuts, len(course)):
        *_, before, last, truth = course.snapshots[: k + 1]
        ahead = truth.time - last.time
        moved = (_mean(last) - _mean(before)) * ahead / (last.time - before.time)
        again = method.fit(
            replace(course, snapshots=course.snapshots[:k]),
            steps=steps,
            generator=seed,
            preprocessing=fit.preprocessing,
            progress=False,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*an extrapolation")
            cells = held(again).interpolate(truth.time, solver=solver, generator=seed)
        model, same, mean = (
            METRICS["w1"](s.x, truth.x, x_mass=s.mass, y_mass=truth.mass)
            for s in (cells, last, replace(last, x=last.x + moved))
        )
        floor = split_half_floor(truth.x, METRICS["w1"], mass=truth.mass, generator=seed).mean()
        out.append(ForecastError(truth.time, ahead, model, same, mean, float(floor)))
    return out


def _mean(cells: Snapshot) -> Tensor:
    return cells.weights.to(cells.x) @ cells.x
