"""Distances between clouds of cells, each ``metric(x, y, *, x_mass=None, y_mass=None) -> float``.

All compute in float64 on centred data, on the device of their input.
"""

from __future__ import annotations

from collections.abc import Callable

from cellflow.metrics.energy import energy_distance
from cellflow.metrics.estimate import Estimate, sampled_wasserstein, sliced_wasserstein
from cellflow.metrics.floor import split_half_floor
from cellflow.metrics.mmd import mmd
from cellflow.metrics.sliced import sliced_wasserstein2
from cellflow.metrics.wasserstein import wasserstein1, wasserstein2

#: Metrics by name, for the AnnData door and the command line.
METRICS: dict[str, Callable[..., float]] = {
    "w1": wasserstein1,
    "w2": wasserstein2,
    "sliced_w2": sliced_wasserstein2,
    "energy": energy_distance,
    "mmd": mmd,
}

__all__ = [
    "METRICS",
    "Estimate",
    "energy_distance",
    "mmd",
    "sampled_wasserstein",
    "sliced_wasserstein",
    "sliced_wasserstein2",
    "split_half_floor",
    "wasserstein1",
    "wasserstein2",
]
