"""The Euler-Maruyama step: strong order 1, as the noise is additive; weak order 1."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.noise import Drawn
from cellflow.simulate.solver import SOLVERS, Solver


def euler_maruyama(
    field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float, noise: Drawn = None
) -> Tensor:
    """Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``.

    Without `noise`, the increments over the step, it is the explicit Euler step.
    """
    new = x + h * slope
    return new if noise is None else new + noise.total


SOLVERS.register("euler_maruyama")(
    Solver(order=1, step=euler_maruyama, noisy_step=euler_maruyama, strong_order=1.0)
)
