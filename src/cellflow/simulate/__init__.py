"""Integration of learned dynamics in real time."""

from __future__ import annotations

from cellflow.simulate.field import IntegrationError
from cellflow.simulate.run import SOLVERS, simulate
from cellflow.simulate.trajectory import Trajectory

__all__ = ["SOLVERS", "IntegrationError", "Trajectory", "simulate"]
