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
from cellflow.timecourse import TimeCourse

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
        The cells observed then, shape ``(n, d)``.
    metrics
        Names in :data:`METRICS`.
    """

    held_out: float
    truth: Tensor
    metrics: Sequence[str]

    def __call__(self, method: str, seed: int, x: Tensor) -> list[Row]:
        """Return one row for each metric, for cells `x` that `method` predicted."""
        y = self.truth
        return [
            Row(self.held_out, method, seed, m, METRICS[m](x, y), len(x), len(y))
            for m in self.metrics
        ]

    def yardsticks(self, course: TimeCourse, k: int, seeds: Sequence[int]) -> Iterator[Row]:
        """Yield rows, for `seeds`, of predictions of snapshot `k` of `course` without a model."""
        before, after = course.snapshots[k - 1], course.snapshots[k + 1]
        yield from self("previous", seeds[0], before.x)
        yield from self("next", seeds[0], after.x)
        yield from self("pooled", seeds[0], torch.cat([before.x, after.x]))
        plan = Exact()(before, after)
        share = (course.times[k] - before.time) / (after.time - before.time)
        rows, cols = plan.sample(len(before), stream_seed(seeds[0], k, 20))
        yield from self("ot_midpoint", seeds[0], torch.lerp(before.x[rows], after.x[cols], share))
        n = len(self.truth)
        for seed, m in itertools.product(seeds, self.metrics):
            (floor,) = split_half_floor(
                self.truth, METRICS[m], generator=stream_seed(seed, k, 21), repeats=1
            )
            yield Row(self.held_out, "floor", seed, m, float(floor), n // 2, n // 2)
