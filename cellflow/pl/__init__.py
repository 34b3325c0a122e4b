"""Figures: they draw on the given axes, return them, and leave the AnnData as it is."""

from cellflow import _doors
from cellflow.pl.animation import animation
from cellflow.pl.evaluation import holdout, sigma
from cellflow.pl.fates import fate_simplex, fates
from cellflow.pl.genes import drivers, gene_trends
from cellflow.pl.groups import composition, transitions
from cellflow.pl.history import history
from cellflow.pl.influence import influence
from cellflow.pl.interpolation import interpolation
from cellflow.pl.maps import comparison, growth, uncertainty
from cellflow.pl.perturbation import perturbation
from cellflow.pl.trajectories import trajectories
from cellflow.pl.velocity import velocity

__all__ = [
    "animation",
    "comparison",
    "composition",
    "drivers",
    "fate_simplex",
    "fates",
    "gene_trends",
    "growth",
    "history",
    "holdout",
    "influence",
    "interpolation",
    "perturbation",
    "sigma",
    "trajectories",
    "transitions",
    "uncertainty",
    "velocity",
]

_doors.guard(__name__)
