"""Scores of predictions for one held-out time point, and of those that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cellflow import metrics
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.couplings import Exact
from cellflow.evaluate.table import Row
from cellflow.metrics import Metric, split_half_floor
from cellflow.timecourse import Snapshot, TimeCourse

#: Metrics by name that predictions are scored with.
METRICS: dict[str, Metric] = {name: m for name, m in metrics.METRICS.items() if m.of_holdouts}


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

    def yardstick(self, name: str, course: TimeCourse, k: int, *, seed: int) -> list[Row]:
        """Return rows, for one `seed`, of a prediction of snapshot `k` of `course` without a model.

        Which one says its `name`, of :data:`~cellflow.evaluate.table.YARDSTICKS`.
        """
        if name == "floor":
            return self._floor(k, seed)
        before, after = course.snapshots[k - 1], course.snapshots[k + 1]
        if name == "ot_midpoint":
            plan = Exact()(before, after)
            share = (course.times[k] - before.time) / (after.time - before.time)
            rows, cols = plan.sample(len(before), stream_seed(seed, k, 20))
            # Pairs were drawn in proportion to their mass, so that each weighs the same.
            cells = Snapshot(torch.lerp(before.x[rows], after.x[cols], share), course.times[k])
        elif name == "pooled":
            cells = _pooled(before, after)
        else:
            cells = {"previous": before, "next": after}[name]
        return self(name, seed, cells)

    def _floor(self, k: int, seed: int) -> list[Row]:
        n, rows = len(self.truth), []
        for m in self.metrics:
            (floor,) = split_half_floor(
                self.truth.x,
                METRICS[m],
                mass=_mass(self.truth),
                generator=stream_seed(seed, k, 21),
                repeats=1,
            )
            rows.append(Row(self.held_out, "floor", seed, m, float(floor), n // 2, n // 2))
        return rows


def _mass(cells: Snapshot) -> Tensor | None:
    return None if cells.is_uniform else cells.mass  # metrics are faster without


def _pooled(before: Snapshot, after: Snapshot) -> Snapshot:
    """Cells of both, each snapshot weighing as many cells as it has."""
    mass = None
    if not (before.is_uniform and after.is_uniform):
        mass = torch.cat([len(s) * s.weights for s in (before, after)])
    return Snapshot(torch.cat([before.x, after.x]), before.time, mass)
