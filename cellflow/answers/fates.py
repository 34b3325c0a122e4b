r"""Fates: of every cell, the probability that its descendants end in each of several groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers.labels import NEIGHBOURS, indicators, shares_near
from cellflow.fits import Ensemble, Fit, Interpolation
from cellflow.plans import Transitions
from cellflow.simulate import SOLVERS
from cellflow.timecourse import Snapshot

#: Futures that are simulated at once; and parts of a span after each of which they are bent.
BLOCK, BENDS = 2**16, 16
#: What becomes of short displacements ``(n, d)`` of cells.
Bend = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Fates:
    """Probability of each of several groups for each of `n` cells, and what is known of its error.

    The `groups` are names. Of shape ``(n, k)`` are `probabilities`, whose rows have sum one, NaN
    where a cell has no descendants; `sampling_error`, their standard error by the finite number of
    futures, zero where a cell has one; and `member_error`, the standard deviation between the
    members of an ensemble, None of one fit.
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
    transitions: Transitions,
    labels: Sequence[str | None],
    *,
    start: float,
    end: float,
    growth: bool = True,
) -> Fates:
    r"""Fates of the cells at `start` by a chain of plans, without a network.

    The share of each group among the descendants at `end`, whose `labels` are given, None of one
    that tells nothing: with :math:`F` of :class:`~cellflow.plans.Transitions`, row i of
    :math:`F^{(1)} F^{(2)} \cdots` summed over the cells of a group and divided by its total. The
    `transitions` are plans between consecutive snapshots; `growth` says whether descendants weigh
    by their mass. If not, each step of the chain has rows of sum one: every cell at every time
    leaves as much.
    """
    if not growth:
        still = (replace(p, source_growth=None, target_growth=None) for p in transitions.plans)
        transitions = replace(transitions, plans=tuple(still))
    return _by_plans(lambda marks: transitions.expect(marks, start, end), labels)


def origins_by_plans(
    transitions: Transitions, labels: Sequence[str | None], *, start: float, end: float
) -> Fates:
    """Share of each group among the ancestors at `start` of the cells at `end`, without a network.

    With the `labels` of the cells at `start`, None where they tell nothing, and the matrices
    :math:`B` of the `transitions`. What ancestors weighed is in them.
    """
    return _by_plans(lambda marks: transitions.recall(marks, start, end), labels)


def _by_plans(carry: Callable[[Tensor], Tensor], labels: Sequence[str | None]) -> Fates:
    """Fates from what `carry` makes of the indicators ``(m, k)`` of groups: ``(n, k)``."""
    groups = tuple(sorted({label for label in labels if label is not None}))
    found = carry(indicators(labels, groups))
    total = found.sum(1, keepdim=True)
    p = torch.where(total > 0, found / total, torch.nan)
    return Fates(groups, p, torch.zeros_like(p))


def fates_by_flow(
    fit: Fit | Ensemble,
    start: Snapshot,
    ends: Snapshot,
    *,
    n_futures: int = 100,
    solver: str | None = None,
    growth: bool = True,
    neighbours: int = NEIGHBOURS,
    bend: Bend | None = None,
    generator: Rng = 0,
) -> Fates:
    """Fates of the cells `start` by simulating their futures to the time of `ends`.

    If that time is earlier, they are ancestors: the dynamics are simulated in reverse, where the
    noise is that of the reversed process and masses do not weigh, because the score is that of a
    population which has grown. A future's group is that of the cells `ends` around the place where
    it comes to, in the coordinates that the fit was trained in:
    :func:`~cellflow.answers.labels.shares_near`.

    Parameters
    ----------
    fit
        A fit; of an ensemble, probabilities are means over members.
    start, ends
        Cells in data coordinates, at their time, and cells with labels at another time.
    n_futures
        Futures of each cell by each member, where the method learned noise; one otherwise.
    solver
        ``"sra1"`` where the method learned noise, otherwise ``"rk4"``, when omitted.
    growth
        Whether futures weigh by the mass that they have grown to.
    neighbours
        Observed cells that label the end of a future.
    bend
        What becomes of a displacement ``(n, d)`` along a 16th of the span, in data coordinates,
        for cells that are not free to go where the fit leads.
    generator
        Seed or generator of the noise, the same for all members.
    """
    if ends.labels is None or ends.time == start.time:
        got = "cells without labels" if ends.labels is None else f"cells at time {ends.time:g}"
        expected = f"labelled cells at another time than {start.time:g}"
        raise ValueError(_checks.message("ends", got, expected))
    groups = tuple(sorted(set(ends.labels)))
    futures = _Futures(
        ends=ends,
        marks=indicators(ends.labels, groups),
        number=_checks.count(n_futures, "n_futures"),
        solver=solver,
        growth=growth and ends.time > start.time,
        neighbours=neighbours,
        bend=bend,
        seed=draw_seed(_checks.as_generator(generator)),
    )
    members = list(fit) if isinstance(fit, Ensemble) else [fit]
    found = [futures.of(one, start) for one in members]
    means, variances = (torch.stack(values) for values in zip(*found, strict=True))
    between = means.std(0) if len(members) > 1 else None
    return Fates(groups, means.mean(0), variances.sum(0).sqrt() / len(members), between)


def is_noisy(fit: Fit | Ensemble) -> bool:
    """Whether the method learned noise, so that a cell has more than one future."""
    return (next(iter(fit)) if isinstance(fit, Ensemble) else fit).dynamics.noisy


def futures(fit: Fit | Ensemble, cells: Snapshot, time: float, *, generator: Rng = 0) -> Snapshot:
    """One future of each of the `cells` at a later `time`, with the mass that it has grown to.

    With noise where the method learned it. Of an ensemble, the futures by all members in turn,
    each with an equal part of the mass.
    """
    solver = "sra1" if is_noisy(fit) else "rk4"
    found = fit.predict(cells, time, solver=solver, generator=generator)
    return found.pooled if isinstance(found, Interpolation) else found


@dataclass(frozen=True, eq=False)
class _Futures:
    """How futures are simulated, and what their ends are compared with."""

    ends: Snapshot
    marks: Tensor
    number: int
    solver: str | None
    growth: bool
    neighbours: int
    bend: Bend | None
    seed: int

    def of(self, fit: Fit, start: Snapshot) -> tuple[Tensor, Tensor]:
        """Mean over futures of the shares of groups at their ends, and its variance, ``(n, k)``."""
        prep, noisy = fit.preprocessing, fit.dynamics.noisy
        solver = self.solver or ("sra1" if noisy else "rk4")
        copies = self.number if noisy and SOLVERS[solver].stochastic else 1
        there = self.ends.x if prep is None else prep.apply(self.ends.x)
        rng, parts = torch.Generator().manual_seed(self.seed), []
        for x in start.x.split(max(1, BLOCK // copies)):
            x0 = x.repeat_interleave(copies, 0)
            final, log_mass = self._follow(fit, x0, start.time, solver=solver, rng=rng)
            final = final if prep is None else prep.apply(final)
            shares = shares_near(final, there, self.marks, neighbours=self.neighbours)
            parts.append(_weighted(shares.view(len(x), copies, -1), log_mass))
        mean, variance = (torch.cat(values) for values in zip(*parts, strict=True))
        return mean, variance

    def _follow(
        self, fit: Fit, x: Tensor, time: float, *, solver: str, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Where cells `x` ``(n, d)`` come to from `time` on, and their log masses ``(n,)``."""
        log_mass = torch.zeros(len(x), dtype=torch.float64)
        parts = 1 if self.bend is None else BENDS
        for here, there in pairwise(np.linspace(time, self.ends.time, parts + 1).tolist()):
            out = fit.simulate(x, [here, there], solver=solver, generator=rng)
            x = out.final if self.bend is None else x + self.bend(out.final - x)
            if self.growth and out.log_mass is not None:
                log_mass += out.log_mass[-1].detach().cpu()
        return x, log_mass


def _weighted(shares: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `shares` ``(n, futures, k)`` by mass, and the variance of that mean: ``(n, k)``."""
    n, copies, _ = shares.shape
    weights = log_mass.view(n, copies).softmax(1)
    mean = torch.einsum("nc,nck->nk", weights, shares)
    if copies == 1:
        return mean, torch.zeros_like(mean)
    off = (shares - mean[:, None]).square()
    return mean, torch.einsum("nc,nck->nk", weights.square(), off) * copies / (copies - 1)
