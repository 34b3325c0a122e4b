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
    load_density,
)

__all__ = ["DENSITIES", "Density", "FittedDensity", "InvertibleModel", "from_facts", "load_density"]

_doors.guard(__name__)
