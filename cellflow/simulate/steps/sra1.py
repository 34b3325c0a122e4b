"""The step SRA1 of Rößler (2010), for additive noise: strong order 1.5, weak order 2."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.noise import Drawn
from cellflow.simulate.solver import SOLVERS, Solver


def sra1(
    field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float, noise: Drawn = None
) -> Tensor:
    r"""Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``.

    Two evaluations of the drift, the second at three quarters of the step and at a state that
    has felt :math:`\tfrac32 I_{(1,0)}/h` of `noise`, so that the drift answers to the noise
    within the step. With a constant diffusion the scheme's second weights of the noise cancel
    (Rößler 2010, Runge-Kutta methods for the strong approximation of solutions of stochastic
    differential equations, SIAM J. Numer. Anal. 48, 922-952).
    """
    middle = x + (3 * h / 4) * slope
    if noise is not None:
        middle = middle + 1.5 * noise.mean  # type: ignore[operator] # drawn, for this solver
    new = x + (h / 3) * (slope + 2 * field(u + 3 * h / 4, middle))
    return new if noise is None else new + noise.total


SOLVERS.register("sra1")(
    Solver(order=2, step=sra1, noisy_step=sra1, strong_order=1.5, uses_mean=True)
)
