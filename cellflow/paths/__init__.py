"""Paths between paired cells."""

from cellflow import _doors
from cellflow.paths.bridge import BrownianBridge
from cellflow.paths.carried import Carried
from cellflow.paths.conditional_ot import ConditionalOT
from cellflow.paths.path import PATHS, Pairs, Path, PathPoint
from cellflow.paths.spline import Spline
from cellflow.paths.straight import Straight
from cellflow.paths.timesteps import TIMESTEPS
from cellflow.paths.variance_exploding import VarianceExploding
from cellflow.paths.variance_preserving import VariancePreserving
from cellflow.paths.wfr import Cone

__all__ = [
    "PATHS",
    "TIMESTEPS",
    "BrownianBridge",
    "Carried",
    "ConditionalOT",
    "Cone",
    "Pairs",
    "Path",
    "PathPoint",
    "Spline",
    "Straight",
    "VarianceExploding",
    "VariancePreserving",
]

_doors.guard(__name__)
