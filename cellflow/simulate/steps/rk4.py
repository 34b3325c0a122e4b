"""The classical Runge-Kutta step, order 4 also where the field depends on time."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField

ORDER = 4


def rk4(field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float) -> Tensor:
    """Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``."""
    second = field(u + h / 2, x + (h / 2) * slope)
    third = field(u + h / 2, x + (h / 2) * second)
    fourth = field(u + h, x + h * third)
    return x + (h / 6) * (slope + 2 * (second + third) + fourth)
