"""Exact transport on the line: both quantile functions, compared level by level."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor


def quantile_cost(x: Tensor, y: Tensor, a: Tensor, b: Tensor, *, power: int) -> Tensor:
    r"""Transport cost :math:`\int_0^1 |F_x^{-1}(q) - F_y^{-1}(q)|^p\,dq` of each row.

    Parameters
    ----------
    x, y
        Points on L lines, shapes ``(L, n)`` and ``(L, m)``.
    a, b
        Masses, shapes ``(n,)`` and ``(m,)``, each of total one.
    power
        The power p of the distance.

    Returns
    -------
    Tensor of shape ``(L,)``.
    """
    x, x_level = _sorted_levels(x, a)
    y, y_level = _sorted_levels(y, b)
    # Between two neighbouring levels of either cloud both quantile functions are constant.
    level = torch.cat([x_level, y_level], dim=1).sort(dim=1).values
    width = torch.diff(level, dim=1, prepend=level.new_zeros(level.shape[0], 1))
    gap = _quantile(x, x_level, level) - _quantile(y, y_level, level)
    return (width * gap.abs().pow(power)).sum(1)


def _sorted_levels(x: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    x, order = x.sort(dim=1)
    return x, mass[order].cumsum(1)


def _quantile(x: Tensor, x_level: Tensor, level: Tensor) -> Tensor:
    # A level that should equal one of x_level but for rounding falls on either side of it (or
    # beyond the last); the interval it ends is as narrow as the rounding, so it costs nothing.
    return x.gather(1, torch.searchsorted(x_level, level).clamp_(max=x.shape[1] - 1))
