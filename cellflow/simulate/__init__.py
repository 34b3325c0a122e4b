"""Integration of learned dynamics in real time."""

from __future__ import annotations

from cellflow import _doors
from cellflow.simulate.energy import path_energy
from cellflow.simulate.field import IntegrationError
from cellflow.simulate.integration import Limits, Output
from cellflow.simulate.simulate import simulate
from cellflow.simulate.solver import SOLVERS
from cellflow.simulate.trajectory import Trajectory
from cellflow.simulate.zarr_store import StoredTrajectory, open_trajectory

__all__ = [
    "SOLVERS",
    "IntegrationError",
    "Limits",
    "Output",
    "StoredTrajectory",
    "Trajectory",
    "open_trajectory",
    "path_energy",
    "simulate",
]

_doors.guard(__name__)
