"""Densities of one cloud of cells: discrete flows, those of zuko among them.

The room stands above training, whose loop fits them by maximum likelihood.
"""

from cellflow import _doors
from cellflow.densities.density import (
    DENSITIES,
    Density,
    FittedDensity,
    InvertibleModel,
    from_facts,
)
from cellflow.densities.distill import distill_density
from cellflow.densities.flows import NSF

__all__ = [
    "DENSITIES",
    "NSF",
    "Density",
    "FittedDensity",
    "InvertibleModel",
    "distill_density",
    "from_facts",
]

_doors.guard(__name__)
