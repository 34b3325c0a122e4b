"""Distances between clouds of cells, each ``metric(x, y, *, x_mass=None, y_mass=None) -> float``.

All compute in float64 on centred data, on the device of their input.
"""

from cellflow import _doors
from cellflow.metrics.energy import energy_distance
from cellflow.metrics.floor import split_half_floor
from cellflow.metrics.metric import METRICS, Metric
from cellflow.metrics.mmd import mmd
from cellflow.metrics.sinkhorn import sinkhorn_divergence
from cellflow.metrics.sliced import sliced_wasserstein2
from cellflow.metrics.wasserstein import wasserstein1, wasserstein2

__all__ = [
    "METRICS",
    "Metric",
    "energy_distance",
    "mmd",
    "sinkhorn_divergence",
    "sliced_wasserstein2",
    "split_half_floor",
    "wasserstein1",
    "wasserstein2",
]

_doors.guard(__name__)
