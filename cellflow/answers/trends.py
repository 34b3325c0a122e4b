"""Trends: mean expression of genes over real time, smooth, with bands over the cells sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.interpolate import BSpline

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor

#: Penalties that are tried, where splines weigh as much as the data; and times of a trend.
PENALTIES, POINTS = np.logspace(-6, 4, 21), 51


@dataclass(frozen=True, eq=False)
class Trends:
    """Mean expression of `g` genes over time, and pointwise 95 % bands over the cells sampled.

    At `times` ``(m,)`` from the first to the last with cells, evenly spaced, there are `mean`,
    `low` and `high`, each ``(m, g)``. A band does not say how wrong a curve may be between times
    with cells, where it is interpolated.
    """

    times: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor


def trends(
    expression: Sequence[Tensor],
    times: Sequence[float],
    weights: Sequence[Tensor] | None = None,
    *,
    n_splines: int = 8,
    n_boot: int = 200,
    generator: Rng = 0,
) -> Trends:
    r"""Fit the mean expression of genes over time by penalised cubic splines.

    Each gene has the curve f that minimises :math:`\sum_t n_t (m_t - f(t))^2 + \lambda \int f''^2`,
    with the weighted mean :math:`m_t` of the cells at time t and their effective number
    :math:`n_t = (\sum w)^2 / \sum w^2`. Generalised cross-validation chooses λ, for each gene. In
    the bootstrap, cells are drawn within their time point, and λ is chosen anew.

    Parameters
    ----------
    expression, times
        For each of these increasing times cells × genes, shape ``(n_t, g)``.
    weights
        For each time, the weight of each cell ``(n_t,)``, such as the probability of a fate; all
        the same when omitted. Cells of weight zero are left out.
    n_splines
        Number of cubic B-splines, at least four: the finest curve that there may be.
    n_boot, generator
        Bootstrap draws behind the bands (percentiles), and their seed or generator.
    """
    _checks.count(n_splines, "n_splines", low=4)
    _checks.count(n_boot, "n_boot", low=2)
    if any(b <= a for a, b in pairwise(times)):
        raise ValueError(_checks.message("times", f"{list(times)}", "increasing times"))
    rng = np.random.default_rng(draw_seed(generator))
    total = sum(y.detach().cpu().double().sum(0) for y in expression)
    # Around the mean over all cells, squares lose no digits.
    offset = np.asarray(total) / max(1, sum(map(len, expression)))
    kept, moments = [], []
    for k, time in enumerate(times):
        y = expression[k].detach().cpu().double().numpy() - offset
        w = np.ones(len(y)) if weights is None else weights[k].detach().cpu().double().numpy()
        if (w < 0).any() or not np.isfinite(w.sum()):
            raise ValueError(_checks.message("weights", "NaN or negative ones", "weights >= 0"))
        if (w > 0).any():
            kept.append(time)
            moments.append(_moments(y[w > 0], w[w > 0] / w.max(), n_boot, rng))
    if len(kept) < 2:
        got = f"cells at {len(kept)} time(s)"
        raise ValueError(_checks.message("weights", got, "cells that count at two times or more"))
    size, mean, variance = (np.stack(values, 1) for values in zip(*moments, strict=True))
    spline = _Splines.through(np.array(kept), n_splines)
    grid = np.linspace(0, 1, POINTS)
    curves = spline.basis(grid) @ spline.fit(size, mean, variance) + offset
    low, high = np.quantile(curves[1:], [0.025, 0.975], axis=0)
    clock = kept[0] + (kept[-1] - kept[0]) * grid
    return Trends(*map(torch.from_numpy, (clock, curves[0], low, high)))


def _moments(
    y: np.ndarray, w: np.ndarray, n_boot: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effective number, mean and variance of the cells `y` ``(n, g)``, and of bootstrap draws.

    Shapes ``(1 + n_boot,)`` and twice ``(1 + n_boot, g)``; the first entries are those of the cells
    themselves.
    """
    n, both = len(y), np.concatenate([y, y**2], axis=1)
    sizes, sums = np.empty(1 + n_boot), np.empty((1 + n_boot, both.shape[1]))
    for k in range(1 + n_boot):
        times = np.bincount(rng.integers(n, size=n), minlength=n) if k else np.ones(n)
        drawn = times * w
        sizes[k] = drawn.sum() ** 2 / (drawn @ w)
        sums[k] = drawn @ both / drawn.sum()
    mean, square = np.split(sums, 2, axis=1)
    return sizes, mean, np.maximum(square - mean**2, 0.0)


@dataclass(frozen=True, eq=False)
class _Splines:
    """Cubic B-splines on [0, 1], with the times of the data `at` ``(t,)`` scaled to it."""

    knots: np.ndarray
    at: np.ndarray

    @classmethod
    def through(cls, times: np.ndarray, number: int) -> _Splines:
        """Splines with knots where times are: at quantiles of the distinct ones."""
        at = (times - times[0]) / (times[-1] - times[0])
        inner = np.quantile(at, np.linspace(0, 1, number - 2))
        return cls(np.concatenate([[0.0] * 3, inner, [1.0] * 3]), at)

    def basis(self, x: np.ndarray) -> np.ndarray:
        return BSpline.design_matrix(x, self.knots, 3).toarray()

    def roughness(self) -> np.ndarray:
        """Integrals of products of second derivatives, exactly: two Gauss points an interval."""
        number = len(self.knots) - 4
        left, right = self.knots[3:number], self.knots[4 : number + 1]
        half = (right - left)[:, None] / 2
        nodes = (left + right)[:, None] / 2 + half * np.array([-1, 1]) / np.sqrt(3)
        bent = BSpline(self.knots, np.eye(number), 3).derivative(2)(nodes)
        return np.einsum("iqk,iql,i->kl", bent, bent, half[:, 0])

    def fit(self, size: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Return coefficients ``(draws, splines, g)``.

        Of effective numbers ``(draws, t)``, and means and variances ``(draws, t, g)`` of cells.
        """
        design, penalty = self.basis(self.at), self.roughness()
        penalty *= np.trace(design.T @ design) / len(self.at) / np.trace(penalty)
        total = size.sum(1, keepdims=True)
        share = size / total  # (draws, t)
        weighted = share[:, None] * design.T  # (draws, splines, t)
        within = np.einsum("dt,dtg->dg", share, variance)
        out, best = np.zeros((len(size), design.shape[1], mean.shape[2])), np.inf
        for amount in PENALTIES:
            hat = np.linalg.solve(weighted @ design + amount * penalty, weighted)
            coefficients = hat @ mean
            off = np.einsum("dt,dtg->dg", share, (mean - design @ coefficients) ** 2)
            free = 1 - np.einsum("tk,dkt->d", design, hat)[:, None] / total
            score = (within + off) / np.maximum(free, 1e-9) ** 2
            out = np.where((score < best)[:, None], coefficients, out)
            best = np.minimum(score, best)
        return out
