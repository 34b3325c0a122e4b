"""Figures: they draw on the given axes, return them, and leave the AnnData as it is."""

from cellflow.pl.composition import composition
from cellflow.pl.fates import fates
from cellflow.pl.history import history
from cellflow.pl.holdout import holdout
from cellflow.pl.interpolation import interpolation
from cellflow.pl.sigma import sigma
from cellflow.pl.trajectories import trajectories
from cellflow.pl.transitions import transitions
from cellflow.pl.velocity import velocity

__all__ = [
    "composition",
    "fates",
    "history",
    "holdout",
    "interpolation",
    "sigma",
    "trajectories",
    "transitions",
    "velocity",
]
