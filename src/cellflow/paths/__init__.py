"""Paths between paired cells."""

from cellflow.paths.base import Pairs, Path, PathPoint
from cellflow.paths.brownian import BrownianBridge
from cellflow.paths.spline import Spline
from cellflow.paths.straight import Straight

__all__ = ["BrownianBridge", "Pairs", "Path", "PathPoint", "Spline", "Straight"]
