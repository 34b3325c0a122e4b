"""The explicit midpoint step, order 2."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.solver import SOLVERS, Solver


def midpoint(field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float) -> Tensor:
    """Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``."""
    return x + h * field(u + h / 2, x + (h / 2) * slope)


SOLVERS.register("midpoint")(Solver(order=2, step=midpoint))
