"""Figures: they draw on the given axes, return them, and leave the AnnData as it is."""

from cellflow import _doors
from cellflow.pl.densities import batches, outliers
from cellflow.pl.evaluation import history, holdout, sigma
from cellflow.pl.fates import fate_simplex, fates
from cellflow.pl.forecast import forecast
from cellflow.pl.genes import drivers, gene_trends, influence, perturbation
from cellflow.pl.groups import composition, transitions
from cellflow.pl.interpolation import interpolation
from cellflow.pl.maps import comparison, growth, uncertainty
from cellflow.pl.mean_changes import mean_changes
from cellflow.pl.trajectories import animation, trajectories
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
