"""Regression of average velocities, which carry cells over long spans in one step."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor
from cellflow.networks import Network
from cellflow.objectives._mean import mean_square
from cellflow.paths import PathPoint

#: Its multiples, less whole numbers, fill every interval evenly.
_GOLDEN = 0.6180339887498949


def average_velocity_matching(network: Network, batch: PathPoint) -> dict[str, Tensor]:
    r"""Learn average velocities from conditional ones (MeanFlow, :cite:`geng2025`, eq. 6 and 9).

    The average velocity of a cell from `t` until `e`,
    :math:`(e - t)\, u(x_t, t, e) = \int_t^e v(x_\tau, \tau)\, d\tau`, obeys

    .. math:: u(x, t, e) = v(x, t) + (e - t)\,(\partial_t u + v \cdot \nabla_x u),

    since the derivative of both sides along the flow is the same, and :math:`u(x, t, t) = v(x, t)`.
    The right-hand side, with the `network` as it is and the velocity of the pair, is regressed. (In
    the paper cells go from the later time to the earlier one, which turns signs.) Half of the
    points of `batch` have :math:`e = t`, the others end evenly between it and the next snapshot.
    The term is the mean squared error, in squared data units per squared time.
    """
    t, x, v = batch.t, batch.x, batch.velocity
    knots = torch.tensor(network.units.knots, dtype=t.dtype, device=t.device)
    end = knots[torch.searchsorted(knots, t, right=True).clamp(1, len(knots) - 1)]
    share = torch.arange(1, len(t) + 1, dtype=torch.float64) * _GOLDEN % 1
    until = t + (2 * share - 1).clamp(min=0.0).to(t) * (end - t)
    with torch.no_grad():
        rate = torch.func.jvp(
            lambda t, x: network.between(t, until, x), (t, x), (torch.ones_like(t), v)
        )[1]
        wanted = v + (until - t)[:, None].to(x) * rate
    return {"velocity": mean_square(network.between(t, until, x), wanted, batch.weight)}
