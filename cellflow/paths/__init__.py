"""Paths between paired cells."""

from cellflow import _doors
from cellflow.paths.bridge import BrownianBridge
from cellflow.paths.path import PATHS, Pairs, Path, PathPoint
from cellflow.paths.spline import Spline
from cellflow.paths.straight import Straight

__all__ = ["PATHS", "BrownianBridge", "Pairs", "Path", "PathPoint", "Spline", "Straight"]

_doors.guard(__name__)
