"""Predictor and corrector: a step of the SDE, then one of Langevin dynamics at the new time."""

from __future__ import annotations

import math

import torch

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.noise import Drawn
from cellflow.simulate.solver import SOLVERS, Solver


def predictor_corrector(
    field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float, noise: Drawn = None
) -> Tensor:
    r"""Advance `x` ``(n, d)`` from ``u`` to ``u + h``; `slope` is the field at ``(u, x)``.

    An Euler-Maruyama step, then :math:`x + \epsilon \nabla\log p + \sqrt{2\epsilon}\,z`, which
    leaves the marginal as it is and draws errors of the prediction back to it (Song et al. 2021,
    :cite:`song2021`, algorithm 1, one correction). Its size is tied to the step,
    :math:`\epsilon = \tfrac12\sigma^2\,dt`: with variance-exploding noise in 100 steps, a
    signal-to-noise ratio of 0.2. It draws from the law of the population at each time; a cell's
    path has the right law at no two times. Without `noise`, it is the explicit Euler step.
    """
    new = x + h * slope
    if noise is None:
        return new
    new, scale = new + noise.total, field.scale(u, h, x)
    # What the mean of the motion tells beside its total is independent of it.
    z = math.sqrt(12) * (noise.mean - 0.5 * noise.total)  # type: ignore[operator] # drawn here
    dim = x.shape[1] - (field.dynamics.growth is not None)
    score = field.dynamics.score(field.asked(u + h, x), new[:, :dim])  # type: ignore[misc] # noisy
    push = torch.nn.functional.pad(score, (0, x.shape[1] - dim))
    return new + 0.5 * scale**2 * push + z


SOLVERS.register("predictor_corrector")(
    Solver(order=1, step=predictor_corrector, noisy_step=predictor_corrector, uses_mean=True)
)
