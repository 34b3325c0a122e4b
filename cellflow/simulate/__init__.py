"""Integration of learned dynamics in real time."""

from __future__ import annotations

from cellflow import _doors
from cellflow.simulate.energy import path_energy
from cellflow.simulate.field import IntegrationError
from cellflow.simulate.flow import flow
from cellflow.simulate.integration import Limits, Output
from cellflow.simulate.likelihood import Density, Likelihood, log_likelihood
from cellflow.simulate.simulate import simulate
from cellflow.simulate.solver import SOLVERS
from cellflow.simulate.trajectory import Trajectory
from cellflow.simulate.zarr_store import StoredTrajectory, open_trajectory

__all__ = ["SOLVERS", "Density", "IntegrationError", "Likelihood", "Limits", "Output"]
__all__ += ["StoredTrajectory", "Trajectory", "flow", "log_likelihood", "open_trajectory"]
__all__ += ["path_energy", "simulate"]

_doors.guard(__name__)
