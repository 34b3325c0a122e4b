"""Paths between paired cells."""

from cellflow.paths.bridge import BrownianBridge
from cellflow.paths.path import Pairs, Path, PathPoint
from cellflow.paths.spline import Spline
from cellflow.paths.straight import Straight

__all__ = ["BrownianBridge", "Pairs", "Path", "PathPoint", "Spline", "Straight"]
