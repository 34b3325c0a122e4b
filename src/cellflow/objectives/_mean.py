"""Means over a batch in which pairs weigh by their mass."""

from __future__ import annotations

from cellflow._typing import Tensor


def mean_square(error: Tensor, weight: Tensor | None) -> Tensor:
    """Mean square of `error` ``(n, d)``, pairs weighing by `weight` ``(n,)``; None for equal."""
    if weight is None:
        return error.square().mean()
    return (weight * error.square().mean(1)).mean() / weight.mean()
