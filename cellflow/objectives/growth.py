"""Regression of the growth rate."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.objectives._mean import mean_square
from cellflow.paths import PathPoint


def growth_matching(
    dynamics: Dynamics, batch: PathPoint, *, unit: float = 1.0
) -> dict[str, Tensor]:
    r"""Regression of the rate at which pairs gain mass.

    A pair whose mass goes as :math:`m_s = m_0 e^{g\,\Delta t}` contributes :math:`g` where its
    path is met, in proportion to the mass it has there. The population then obeys
    :math:`\partial_t p + \nabla\cdot(p v) = g p` with both its snapshots as marginals: the
    conditional argument of flow matching (:cite:`tong2024improving`, theorem 3.1), with masses.

    `dynamics` have the growth that is learned; a `batch` without growth counts as zero. The term is
    in inverse squared units of time but for its factor `unit`.
    """
    if dynamics.growth is None:
        raise ValueError("dynamics: expected a growth to learn, got None.")
    rate = dynamics.growth(batch.t, batch.x)
    target = torch.zeros_like(rate) if batch.growth is None else batch.growth
    return {"growth": unit * mean_square(rate[:, None], target[:, None], batch.weight)}
