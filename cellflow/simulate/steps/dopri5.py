"""The adaptive Runge-Kutta pair of Dormand and Prince (1980), order 5, which torchdyn runs."""

from __future__ import annotations

from cellflow.simulate.solver import SOLVERS, Solver

SOLVERS.register("dopri5")(Solver(order=5))
