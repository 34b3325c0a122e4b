"""Uncertainty: where the members of an ensemble are least sure of the population."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.fits import Ensemble, Interpolation


@dataclass(frozen=True)
class Disagreement:
    """How far the members of an ensemble are from each other at a `time` between two snapshots.

    The `spread` is the distance of a cell, as one member predicts it, from the mean over members:
    root mean square over cells and members. The cells have come as far as `moved` from the
    snapshots before and after, in root mean square. Both are in data units.
    """

    time: float
    spread: float
    moved: float


def disagreement(ensemble: Ensemble, time: float, *, generator: Rng = 0) -> Disagreement:
    """Tell how far members are from each other at a `time` between two snapshots of the course.

    Cells of the snapshot before are carried forward, those of the one after back; with s the share
    of the way that has passed, squares count for ``1 - s`` and ``s``. So what is observed is known,
    and an `ensemble` is least sure somewhere between. The spread is a lower bound, see
    :class:`~cellflow.fits.Ensemble`. A `generator` is passed on to
    the predictions.
    """
    before = [s for s in ensemble.course.snapshots if s.time <= time]
    after = [s for s in ensemble.course.snapshots if s.time > time]
    time = _checks.number(time, "time")
    if not before or not after:
        first, last = ensemble.course.times[0], ensemble.course.times[-1]
        raise ValueError(_checks.message("time", f"{time:g}", f"a time from {first:g} to {last:g}"))
    passed = (time - before[-1].time) / (after[0].time - before[-1].time)
    spread = moved = 0.0
    for start, share in ((before[-1], 1 - passed), (after[0], passed)):
        if start.time == time or share == 0:
            continue
        found = ensemble.predict(start, time, generator=generator)
        spread += share * _mean(found, found.states.std)
        moved += share * _mean(found, found.states.mean - start.x)
    return Disagreement(time, math.sqrt(spread), math.sqrt(moved))


def _mean(found: Interpolation, off: Tensor) -> float:
    """Mean over cells, by the members' mean mass, of the squared lengths of `off` ``(n, d)``."""
    weights = torch.stack([s.weights.double() for s in found.members]).mean(0)
    return float(weights @ off.double().square().sum(1) / weights.sum())


def disagreements(
    ensemble: Ensemble, *, per_interval: int = 7, generator: Rng = 0
) -> list[Disagreement]:
    """Look at `per_interval` evenly spaced times within each interval: see :func:`disagreement`.

    Of the `ensemble`, whose stochastic predictions are seeded by the `generator`.
    """
    count = _checks.count(per_interval, "per_interval")
    seed = draw_seed(_checks.as_generator(generator))
    out = []
    for k, (before, after) in enumerate(ensemble.course.steps):
        for j in range(1, count + 1):
            time = before.time + (after.time - before.time) * j / (count + 1)
            out.append(disagreement(ensemble, time, generator=stream_seed(seed, k * count + j, 80)))
    return out
