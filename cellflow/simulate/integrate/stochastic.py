"""Fixed-step integration of stochastic equations with additive noise."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.interpolation import steps_with_rows
from cellflow.simulate.noise import Noise
from cellflow.simulate.solver import NoisyStep


def integrate_stochastic(
    field: RescaledField,
    x: Tensor,
    *,
    u: Tensor,
    step: NoisyStep,
    n_steps: int,
    noise: Noise,
    mean: bool = True,
    out: Tensor,
) -> None:
    r"""Take `n_steps` equal steps through [0, 1] and write states at `u` into `out`.

    Neither the steps nor their noise depend on `u`. A state between two nodes is drawn from the
    Brownian bridge through them. The drift varies by :math:`O(\sqrt h)` within a step, so that
    this is a draw from the law up to a local error of :math:`O(h^{3/2})` in the path and of
    :math:`O(h^2)` in law, which do not accumulate: no step is worse.
    """
    h = 1.0 / n_steps
    nodes = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    out[0] = x
    for here, there, between, end in steps_with_rows(u, nodes):
        scale = field.scale(here, h, x)
        drawn = noise.increments(scale, mean=mean)
        new = step(field, x, field(here, x), u=here, h=h, noise=drawn)
        field.require_finite(new, there)
        field.advance(there)
        if between.stop > between.start:
            theta = (u[between] - here) * n_steps
            line = torch.addcmul(x, theta.to(x)[:, None, None], new - x)
            torch.add(line, noise.bridge(theta, scale), out=out[between])
        if end is not None:
            out[end] = new
        x = new
