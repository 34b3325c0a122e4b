"""Maximum mean discrepancy with a Gaussian kernel."""

from __future__ import annotations

import sys
from functools import partial

import torch

from cellflow import _checks, costs
from cellflow._typing import ArrayLike, Tensor
from cellflow.metrics.metric import Clouds, Metric, as_clouds, metric, row_blocks, within_mean

#: Cells of each cloud that the median heuristic looks at.
MEDIAN_CELLS = 1_000
#: Keywords under which it is a distance with one scale for all clouds.
FIXED = {"bandwidth": 1.0, "unbiased": False}


@metric("mmd", partial(Metric, exponent=None, of_holdouts=False, settings=FIXED))
def mmd(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_mass: ArrayLike | None = None,
    y_mass: ArrayLike | None = None,
    bandwidth: float | None = None,
    unbiased: bool = True,
) -> float:
    r"""Squared MMD, :math:`E k(X, X') + E k(Y, Y') - 2 E k(X, Y)` (Gretton et al. 2012, eq. 3).

    Of `x` and `y`, of masses `x_mass` and `y_mass` as in :func:`wasserstein1`. The kernel is
    :math:`k(x, y) = \exp(-|x - y|^2 / 2h^2)`; computed in blocks, so memory stays bounded at any
    number of cells. The `bandwidth` h is in data units; when omitted, it is the median distance
    between (at most 1,000 + 1,000, evenly spaced) pooled cells. Fix it to compare several values
    with one another. It is the U-statistic if `unbiased`, which can be negative, else the
    V-statistic, which cannot.
    """
    clouds = as_clouds(x, y, x_mass=x_mass, y_mass=y_mass)
    if bandwidth is None:
        bandwidth = _median_distance(clouds)
    h = _checks.number(bandwidth, "bandwidth", low=0.0, open_low=True)
    self_x = _mean_kernel(clouds.x, clouds.x, clouds.a, clouds.a, h=h)
    self_y = _mean_kernel(clouds.y, clouds.y, clouds.b, clouds.b, h=h)
    value = (
        within_mean(self_x, 1.0, clouds.a, unbiased=unbiased, name="x")
        + within_mean(self_y, 1.0, clouds.b, unbiased=unbiased, name="y")
        - 2.0 * _mean_kernel(clouds.x, clouds.y, clouds.a, clouds.b, h=h)
    )
    return value if unbiased else max(value, 0.0)


def _mean_kernel(x: Tensor, y: Tensor, a: Tensor, b: Tensor, *, h: float) -> float:
    total, scale = 0.0, -0.5 / max(h * h, sys.float_info.min)
    for rows in row_blocks(len(x), len(y)):
        block = costs.squared_distance(x[rows], y).mul_(scale).exp_()
        total += float(a[rows] @ block @ b)
    return total


def _median_distance(clouds: Clouds) -> float:
    pooled = torch.cat([_thinned(clouds.x), _thinned(clouds.y)])
    i, j = torch.triu_indices(len(pooled), len(pooled), offset=1, device=pooled.device)
    median = float(costs.distance(pooled, pooled)[i, j].median())
    if median == 0.0:
        got, expected = "a median distance of 0", "cells that differ"
        raise ValueError(_checks.message("bandwidth", got, expected, "Give a bandwidth."))
    return median


def _thinned(x: Tensor) -> Tensor:
    if len(x) <= MEDIAN_CELLS:
        return x
    return x[torch.linspace(0, len(x) - 1, MEDIAN_CELLS, device=x.device).round().long()]
