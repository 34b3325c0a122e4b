"""Figures: they draw on the given axes, return them, and leave the AnnData as it is."""

from cellflow import _doors
from cellflow.pl.animation import animation
from cellflow.pl.batches import batches
from cellflow.pl.comparison import comparison
from cellflow.pl.composition import composition
from cellflow.pl.drivers import drivers
from cellflow.pl.fate_simplex import fate_simplex
from cellflow.pl.fates import fates
from cellflow.pl.forecast import forecast
from cellflow.pl.gene_trends import gene_trends
from cellflow.pl.growth import growth
from cellflow.pl.history import history
from cellflow.pl.holdout import holdout
from cellflow.pl.influence import influence
from cellflow.pl.interpolation import interpolation
from cellflow.pl.mean_changes import mean_changes
from cellflow.pl.outliers import outliers
from cellflow.pl.perturbation import perturbation
from cellflow.pl.sigma import sigma
from cellflow.pl.trajectories import trajectories
from cellflow.pl.transitions import transitions
from cellflow.pl.uncertainty import uncertainty
from cellflow.pl.velocity import velocity

__all__ = [
    "animation",
    "batches",
    "comparison",
    "composition",
    "drivers",
    "fate_simplex",
    "fates",
    "forecast",
    "gene_trends",
    "growth",
    "history",
    "holdout",
    "influence",
    "interpolation",
    "mean_changes",
    "outliers",
    "perturbation",
    "sigma",
    "trajectories",
    "transitions",
    "uncertainty",
    "velocity",
]

_doors.guard(__name__)
