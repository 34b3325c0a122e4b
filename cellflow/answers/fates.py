r"""Fates: of every cell, the probability that its descendants end in each of several groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers.labels import NEIGHBOURS, indicators, shares_near
from cellflow.fits import Ensemble, Fit
from cellflow.plans import Transitions
from cellflow.simulate import SOLVERS, Trajectory
from cellflow.timecourse import Snapshot

#: Cells and futures that are simulated at once.
BLOCK = 2**16


@dataclass(frozen=True, eq=False)
class Fates:
    """Probability of each of several groups for each of `n` cells, and what is known of its error.

    Parameters
    ----------
    groups
        Names of the groups.
    probabilities
        Shape ``(n, k)``, rows of sum one; NaN where a cell has no descendants.
    sampling_error
        Standard error by the finite number of futures, ``(n, k)``; zero where a cell has one.
    member_error
        Standard deviation between the members of an ensemble, ``(n, k)``; None of one fit.
    """

    groups: tuple[str, ...]
    probabilities: Tensor
    sampling_error: Tensor
    member_error: Tensor | None = None

    @property
    def entropy(self) -> Tensor:
        """Entropy of each cell's fate in units of that of equal chances, 0 to 1, shape ``(n,)``."""
        p, k = self.probabilities, len(self.groups)
        nats = -torch.xlogy(p, p).sum(1)
        return nats / torch.tensor(float(k)).log() if k > 1 else torch.zeros_like(nats)


def fates_by_plans(
    transitions: Transitions, labels: Sequence[str], start: float, end: float, *, growth: bool = True
) -> Fates:
    r"""Fates of the cells at `start` by a chain of plans, without a network.

    The share of each group among the descendants at `end`, whose `labels` are given: with
    :math:`F` of :class:`~cellflow.plans.Transitions`, row i of :math:`F^{(1)} F^{(2)} \cdots`
    summed over the cells of a group and divided by its total.

    Parameters
    ----------
    transitions
        Plans between consecutive snapshots.
    labels
        Group of each cell at `end`.
    start, end
        Times of two snapshots, in order.
    growth
        Whether descendants weigh by their mass. If not, each step of the chain has rows of sum
        one: every cell at every time leaves as much.
    """
    if not growth:
        still = (replace(p, source_growth=None, target_growth=None) for p in transitions.plans)
        transitions = replace(transitions, plans=tuple(still))
    groups = tuple(sorted(set(labels)))
    found = transitions.expect(indicators(labels, groups), start, end)
    total = found.sum(1, keepdim=True)
    p = torch.where(total > 0, found / total, torch.nan)
    return Fates(groups, p, torch.zeros_like(p))


def fates_by_flow(
    fit: Fit | Ensemble,
    x: Tensor,
    time: float,
    *,
    end: float | None = None,
    n_futures: int = 100,
    solver: str | None = None,
    growth: bool = True,
    neighbours: int = NEIGHBOURS,
    generator: Rng = 0,
) -> Fates:
    """Fates of cells `x` at `time` by simulating their futures.

    Each future ends at the `end` among observed cells, whose labels say which group it is in
    (:func:`~cellflow.answers.labels.shares_near`).

    Parameters
    ----------
    fit
        A fit to labelled cells; of an ensemble, probabilities are means over members.
    x
        Cells in data coordinates, shape ``(n, d)``.
    time, end
        Their time, and that of a later snapshot; the last one when omitted.
    n_futures
        Futures of each cell by each member, where the method learned noise; one otherwise.
    solver
        ``"sra1"`` where the method learned noise, otherwise ``"rk4"``, when omitted.
    growth
        Whether futures weigh by the mass that they have grown to.
    neighbours
        Observed cells that label the end of a future.
    generator
        Seed or generator of the noise, the same for all members.
    """
    last = _snapshot(fit, time, end)
    groups, marks = _groups(last.labels or ())
    seed, prep = draw_seed(_checks.as_generator(generator)), fit.preprocessing
    there = last.x if prep is None else prep.apply(last.x)
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    means, variances = [], []
    for one in members:
        noisy = one.dynamics.score is not None and one.dynamics.sigma > 0
        how = solver or ("sra1" if noisy else "rk4")
        copies = n_futures if noisy and SOLVERS[how].stochastic else 1
        rng = torch.Generator().manual_seed(seed)
        parts = []
        for rows in torch.arange(len(x)).split(max(1, BLOCK // copies)):
            ends = one.simulate(
                x[rows].repeat_interleave(copies, 0),
                [time, last.time],
                solver=how,
                generator=rng,
            )
            final = ends.final if prep is None else prep.apply(ends.final)
            shares = shares_near(final, there, marks, neighbours=neighbours)
            log_mass = cast(Trajectory, ends).log_mass if growth else None
            weights = _weights(log_mass, len(rows), copies)
            parts.append(_weighted(shares.view(len(rows), copies, -1), weights))
        mean, variance = (torch.cat(values) for values in zip(*parts, strict=True))
        means.append(mean)
        variances.append(variance)
    between = torch.stack(means).std(0) if len(means) > 1 else None
    sampling = torch.stack(variances).sum(0).sqrt() / len(means)
    return Fates(groups, torch.stack(means).mean(0), sampling, between)


def _snapshot(fit: Fit | Ensemble, time: float, end: float | None) -> Snapshot:
    """Return the snapshot of `fit` at `end`, which comes after `time`."""
    if end is None:
        last = fit.course.snapshots[-1]
    else:
        known = [s for s in fit.course.snapshots if s.time == end]
        if not known:
            times = ", ".join(f"{t:g}" for t in fit.course.times)
            raise ValueError(_checks.message("end", f"{end:g}", f"a time of the fit: {times}"))
        (last,) = known
    if last.time <= time:
        raise ValueError(_checks.message("end", f"{last.time:g}", f"a time after {time:g}"))
    return last


def _groups(labels: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    if not labels:
        expected = "one to labelled cells"
        raise ValueError(_checks.message("fit", "a fit to cells without labels", expected))
    groups = tuple(sorted(set(labels)))
    return groups, indicators(labels, groups)


def _weights(log_mass: Tensor | None, n: int, copies: int) -> Tensor:
    """Weight of each future among those of its cell, ``(n, copies)``, rows of sum one."""
    if log_mass is None:
        return torch.full((n, copies), 1 / copies, dtype=torch.float64)
    return log_mass[-1].detach().cpu().double().view(n, copies).softmax(1)


def _weighted(shares: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean over futures, and the variance of that mean: both ``(n, k)``."""
    mean = torch.einsum("nc,nck->nk", weights, shares)
    copies = shares.shape[1]
    if copies == 1:
        return mean, torch.zeros_like(mean)
    off = (shares - mean[:, None]).square()
    return mean, torch.einsum("nc,nck->nk", weights.square(), off) * copies / (copies - 1)
