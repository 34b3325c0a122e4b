"""The explicit Euler step, order 1."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.solver import SOLVERS, Solver


def euler(field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float) -> Tensor:
    """Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``."""
    return x + h * slope


SOLVERS.register("euler")(Solver(order=1, step=euler))
