"""Means over a batch in which pairs weigh by their mass."""

from __future__ import annotations

from torch.nn.functional import mse_loss

from cellflow._typing import Tensor


def mean_square(found: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
    """Mean square of ``found - wanted`` ``(n, d)``, pairs weighing by `weight` ``(n,)``.

    None weighs them equally.
    """
    if weight is None:
        return mse_loss(found, wanted)
    return (weight * (found - wanted).square().mean(1)).mean() / weight.mean()
