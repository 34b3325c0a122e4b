"""Drivers: genes that go with a fate, and directions of state that lead to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.answers.labels import NEIGHBOURS, indicators, shares_near
from cellflow.fits import Ensemble, Fit
from cellflow.simulate.field import RescaledField
from cellflow.simulate.flow import nodes
from cellflow.simulate.integration import Integration, as_times
from cellflow.simulate.job import Job
from cellflow.timecourse import Snapshot

#: Cells whose gradients are found at once: every step of their paths is in memory.
BLOCK = 1024
#: Deviations from its centre up to which a variable counts as constant, relative to the centre.
CONSTANT = 1e-13
#: Standard errors to either end of a 95 % interval.
WIDTH = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, eq=False)
class Correlations:
    """Pearson correlation of each of `g` genes with a fate, over `n` cells; all of shape ``(g,)``.

    The `correlation`, NaN for a gene that is the same in all cells, has a 95 % interval by Fisher's
    z, `low` to `high`. The `p_value` is of no correlation, two-sided, as of cells with normal
    errors, and `fdr` the false discovery rate of the genes up to this one (Benjamini and Hochberg).
    """

    n: int
    correlation: Tensor
    low: Tensor
    high: Tensor
    p_value: Tensor
    fdr: Tensor


def correlations(blocks: Iterable[tuple[Any, Tensor]]) -> Correlations:
    """Correlate the expression of genes with the probability of a fate.

    Expression may be far larger than memory: it is met once, in `blocks` of some cells each,
    expression ``(b, g)``, a numpy array or a scipy CSR matrix, which is never made dense, and
    probabilities ``(b,)``. Intervals and p values are those of independent cells, whose
    probabilities are known: they say nothing of the error of a fit.
    """
    n, moments = 0, (np.zeros(1), np.zeros(1), 0.0, np.zeros(1), 0.0)
    for block, chances in blocks:
        if block.shape[0]:
            moments = _joined(n, moments, block.shape[0], _moments_of(block, chances))
            n += block.shape[0]
    if n < 4:
        raise ValueError(_checks.message("cells", f"{n} cells with a fate", "at least 4"))
    mean, squares, centre, products, spread = moments
    if np.sqrt(spread) <= CONSTANT * abs(centre):
        got = f"the same probability, {centre:.3g}, in all {n} cells"
        raise ValueError(_checks.message("fate", got, "one that differs between cells"))
    varies = np.sqrt(squares) > CONSTANT * np.abs(mean)
    r = np.full(len(mean), np.nan)
    r[varies] = np.clip(products[varies] / np.sqrt(squares[varies] * spread), -1, 1)
    with np.errstate(divide="ignore"):  # of a gene that is the fate itself
        z = np.arctanh(r)
    low, high = (np.tanh(z + side * WIDTH / np.sqrt(n - 3)) for side in (-1, 1))
    # The exact law of r for independent normal variables.
    p = 2 * stats.beta(n / 2 - 1, n / 2 - 1, loc=-1, scale=2).sf(np.abs(r))
    fdr = np.full(len(r), np.nan)
    if varies.any():
        fdr[varies] = stats.false_discovery_control(p[varies])
    return Correlations(n, *map(torch.from_numpy, (r, low, high, p, fdr)))


#: Means of genes, sums of their squares around them, mean of the chances, sums of products of both
#: around their means, and sum of squares of the chances.
_Moments = tuple[np.ndarray, np.ndarray, float, np.ndarray, float]


def _moments_of(block: Any, chances: Tensor) -> _Moments:
    """Moments of one block, exact also where a mean is far larger than the deviation from it."""
    p = chances.detach().cpu().double().numpy()
    centre, b = float(p.mean()), len(p)
    block = block.astype(np.float64)  # a copy
    if not isinstance(block, np.ndarray):
        block.sum_duplicates()
    mean = np.asarray(block.mean(0)).ravel()
    if isinstance(block, np.ndarray):
        squares = ((block - mean) ** 2).sum(0)
    else:
        off = (block.data - mean[block.indices]) ** 2
        stored = np.bincount(block.indices, minlength=len(mean))
        squares = np.bincount(block.indices, weights=off, minlength=len(mean))
        squares += (b - stored) * mean**2
    return mean, squares, centre, block.T @ (p - centre), float(((p - centre) ** 2).sum())


def _joined(n: int, a: _Moments, b: int, other: _Moments) -> _Moments:
    """Moments of `n` cells and `b` others together (Chan, Golub and LeVeque 1983)."""
    both, weight = n + b, n * b / (n + b)
    mean, centre = other[0] - a[0], other[2] - a[2]
    return (
        a[0] + mean * (b / both),
        a[1] + other[1] + weight * mean**2,
        a[2] + centre * (b / both),
        a[3] + other[3] + weight * mean * centre,
        a[4] + other[4] + weight * centre**2,
    )


@dataclass(frozen=True, eq=False)
class FateGradient:
    r"""Gradient of the log probability of a fate with respect to the states of `n` cells.

    The `probability` ``(n,)`` is that along the mean flow, of an ensemble the mean over members,
    and `members` ``(members, n, d)`` what each of these adds to the gradient, :math:`\nabla p_m /
    \bar p`; NaN for cells of probability zero.
    """

    probability: Tensor
    members: Tensor

    @property
    def gradient(self) -> Tensor:
        """Gradient of the log of the mean probability, ``(n, d)``, per unit of the data."""
        return self.members.mean(0)


def fate_gradient(
    fit: Fit | Ensemble,
    start: Snapshot,
    ends: Snapshot,
    *,
    group: str,
    neighbours: int = NEIGHBOURS,
) -> FateGradient:
    """Differentiate the log probability of a fate through the flow, exactly.

    Cells follow the mean flow in the steps of :meth:`~cellflow.fits.Fit.simulate` (``"rk4"``), and
    their fate is read off the cells `ends` around the place where they come to
    (:func:`~cellflow.answers.labels.shares_near`); the chain rule leads back through both. It
    holds where the neighbours stay the same: cells that end amid one group have a gradient of zero.

    Parameters
    ----------
    fit, neighbours
        A fit or an ensemble; and how many observed cells label the end of a path.
    start, ends, group
        Cells in data coordinates, at their time; cells with labels at a later time; and one of
        these labels.
    """
    if ends.labels is None or ends.time <= start.time:
        got = "cells without labels" if ends.labels is None else f"cells at time {ends.time:g}"
        raise ValueError(_checks.message("ends", got, f"labelled cells after time {start.time:g}"))
    marks = indicators(ends.labels, [_checks.choice(group, set(ends.labels), "group")])
    chances, slopes = [], []
    for one in list(fit) if isinstance(fit, Ensemble) else [fit]:
        there = ends.x if one.preprocessing is None else one.preprocessing.apply(ends.x)
        parts = []
        for cells in start.x.split(BLOCK):
            with torch.enable_grad():
                x = cells.detach().clone().requires_grad_(True)
                final = _flow(one, x, start.time, ends.time)
                p = shares_near(final, there, marks, neighbours=neighbours)[:, 0]
                parts.append((p.detach(), *torch.autograd.grad(p.sum(), x)))
        p, slope = (torch.cat(values) for values in zip(*parts, strict=True))
        chances.append(p)
        slopes.append(slope.cpu().double())
    mean = torch.stack(chances).mean(0)
    known = torch.where(mean > 0, mean, torch.nan)
    return FateGradient(mean, torch.stack(slopes) / known[:, None])


def _flow(fit: Fit, x: Tensor, start: float, end: float) -> Tensor:
    """Where cells `x` come to at the `end`, in model coordinates; differentiable in `x`."""
    z = x.to(next(fit.networks.parameters()))
    z = z if fit.preprocessing is None else fit.preprocessing.apply(z)
    times, knots = as_times([start, end]), fit.course.times
    if fit.clock is not None:
        times, knots = fit.clock(times), fit.clock.retime(fit.course).times
    dynamics = replace(fit.dynamics, growth=None)  # mass does not move a cell
    job = Job.prepare(dynamics, z.detach(), times, how=Integration(knots=knots))
    for segment in job.segments:
        field = RescaledField(dynamics, segment.start, segment.span, bounds=segment.bounds)
        *_, z = nodes(field, z, n_steps=job.n_steps(segment))
    return z
