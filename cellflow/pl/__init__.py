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
    # Cells that move
    "trajectories",
    "animation",
    "velocity",
    "interpolation",
    "forecast",
    # Is it to be trusted?
    "history",
    "holdout",
    "sigma",
    "uncertainty",
    "outliers",
    # What becomes of cells
    "fates",
    "fate_simplex",
    "transitions",
    "composition",
    "growth",
    # Genes
    "drivers",
    "gene_trends",
    "perturbation",
    "influence",
    "mean_changes",
    # Conditions and batches
    "comparison",
    "batches",
]


_doors.guard(__name__)
