"""Scores of predictions for one held-out time point, and of those that need no model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.couplings import Exact
from cellflow.evaluate.table import Row
from cellflow.metrics import energy_distance, split_half_floor, wasserstein1, wasserstein2
from cellflow.timecourse import Snapshot, TimeCourse

METRICS: dict[str, Callable[..., float]] = {
    "w1": wasserstein1,
    "w2": wasserstein2,
    "energy": energy_distance,
}


@dataclass(frozen=True, eq=False)
class Scorer:
    """Compares predictions with the cells of one held-out time point.

    Parameters
    ----------
    held_out
        That time, in the user's unit.
    truth
        The cells observed then, with their masses.
    metrics
        Names in :data:`METRICS`.
    """

    held_out: float
    truth: Snapshot
    metrics: Sequence[str]

    def __call__(self, method: str, seed: int, cells: Snapshot) -> list[Row]:
        """Return one row for each metric, for `cells` that `method` predicted with a `seed`."""
        x, y = cells, self.truth
        masses = {"x_mass": _mass(x), "y_mass": _mass(y)}
        return [
            Row(self.held_out, method, seed, m, METRICS[m](x.x, y.x, **masses), len(x), len(y))
            for m in self.metrics
        ]

    def yardsticks(self, course: TimeCourse, k: int, seeds: Sequence[int]) -> Iterator[Row]:
        """Yield rows, for `seeds`, of predictions of snapshot `k` of `course` without a model."""
        before, after = course.snapshots[k - 1], course.snapshots[k + 1]
        yield from self("previous", seeds[0], before)
        yield from self("next", seeds[0], after)
        yield from self("pooled", seeds[0], _pooled(before, after))
        plan = Exact()(before, after)
        share = (course.times[k] - before.time) / (after.time - before.time)
        rows, cols = plan.sample(len(before), stream_seed(seeds[0], k, 20))
        # Pairs were drawn in proportion to their mass, so that each weighs the same.
        middle = Snapshot(torch.lerp(before.x[rows], after.x[cols], share), course.times[k])
        yield from self("ot_midpoint", seeds[0], middle)
        n = len(self.truth)
        for seed, m in itertools.product(seeds, self.metrics):
            (floor,) = split_half_floor(
                self.truth.x,
                METRICS[m],
                mass=_mass(self.truth),
                generator=stream_seed(seed, k, 21),
                repeats=1,
            )
            yield Row(self.held_out, "floor", seed, m, float(floor), n // 2, n // 2)


def _mass(cells: Snapshot) -> Tensor | None:
    return None if cells.is_uniform else cells.mass  # metrics are faster without


def _pooled(before: Snapshot, after: Snapshot) -> Snapshot:
    """Cells of both, each snapshot weighing as many cells as it has."""
    mass = None
    if not (before.is_uniform and after.is_uniform):
        mass = torch.cat([len(s) * s.weights for s in (before, after)])
    return Snapshot(torch.cat([before.x, after.x]), before.time, mass)
