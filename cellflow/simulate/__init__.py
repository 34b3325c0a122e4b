"""Integration of learned dynamics in real time."""

from __future__ import annotations

from cellflow.simulate.field import IntegrationError
from cellflow.simulate.simulate import simulate
from cellflow.simulate.solvers import SOLVERS
from cellflow.simulate.stored import StoredTrajectory, open_trajectory
from cellflow.simulate.trajectory import Trajectory

__all__ = [
    "SOLVERS",
    "IntegrationError",
    "StoredTrajectory",
    "Trajectory",
    "open_trajectory",
    "simulate",
]
