"""Paths between paired cells."""

from cellflow import _doors
from cellflow.paths.bent import Carried, Spline
from cellflow.paths.bridge import BrownianBridge
from cellflow.paths.from_noise import ConditionalOT, VarianceExploding, VariancePreserving
from cellflow.paths.path import PATHS, Pairs, Path, PathPoint
from cellflow.paths.straight import Straight
from cellflow.paths.timesteps import TIMESTEPS

__all__ = [
    "PATHS",
    "TIMESTEPS",
    "BrownianBridge",
    "Carried",
    "ConditionalOT",
    "Pairs",
    "Path",
    "PathPoint",
    "Spline",
    "Straight",
    "VarianceExploding",
    "VariancePreserving",
]

_doors.guard(__name__)
