"""Unbalanced transport within a reach: cells farther apart die and are born rather than move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch

from cellflow import _checks
from cellflow._random import stream_rng
from cellflow._typing import Tensor
from cellflow.costs import CostLike, as_cost
from cellflow.couplings.coupling import COUPLINGS, HALF_SQUARED, Coupling, centred, costs_of
from cellflow.couplings.exact import Exact
from cellflow.couplings.unbalanced import Growing, prior_weights
from cellflow.strata import links
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem

#: Price of dying and of being born, in units of the cost between two samples of one snapshot.
#: Chosen on unlearned interpolations of eleven sets (docs/decisions/0014-reach.md).
OF_NOISE = 4.0
#: The least price, in units of the mean cost along the balanced plan.
LEAST = 0.3
#: Snapshots of fewer cells say nothing of who grew: their plans are balanced.
FEWEST = 100
#: Regularisation in units of the mean cost along the balanced plan.
EPSILON = 0.05
#: Most cells of a snapshot that scales are measured on, and leading components of their noise.
MOST, LEADING = 4096, 5


class Scale(NamedTuple):
    """Reach and regularisation of the plan from the snapshot at `time`; an infinite reach: None."""

    time: float
    reach: float | None
    epsilon: float


@COUPLINGS.register("reach")
@dataclass(frozen=True)
class Reach(Growing, Coupling):
    r"""Pair cells within a reach; those farther apart die and are born rather than move.

    .. math:: \min_\pi\; \langle \pi, c \rangle + \varepsilon\,\mathrm{KL}(\pi \mid a \otimes b)
       + \rho\,\mathrm{KL}(\pi 1 \mid a) + \rho\,\mathrm{KL}(\pi^\top 1 \mid b), \quad
       \rho = r^2/2

    for the cost ``½|x − y|²`` and weights `a`, `b` of total one (Chizat, Peyré, Schmitzer and
    Vialard, 2018, "Scaling algorithms for unbalanced optimal transport problems", section 3). Of
    two cells a distance `d` apart, without others, the share :math:`e^{-d^2/2r^2}` moves as ε
    vanishes; the rest dies in one place and is born in the other. The plan has growth factors that
    take it to both snapshots exactly (see :class:`~cellflow.plans.Plan`), so the reach decides
    only how a change of composition is told apart into movement and growth.

    **The reach that the data allow.** Two samples of one population differ by chance, and where
    that difference is large, growth read from samples is chance as well. By default
    :math:`\rho` is 4 times the mean cost along the exact plan between two random halves of a
    snapshot, in its five leading components, and at least 0.3 times the mean cost along the
    balanced plan between the snapshots. Below 100 cells the plan is balanced. A fit measures this
    once for each interval, on whole snapshots; a call without a fit measures it on the two
    snapshots it is given.

    Parameters
    ----------
    reach
        Distance in data units, infinity for balanced plans. When omitted, that of the `cost` if it
        has one, as that of Wasserstein-Fisher-Rao transport, else measured.
    scales
        What was measured, one entry for each interval: see :meth:`fitted_to`.
    relative_epsilon
        Regularisation ε in units of the mean cost along the balanced plan.
    tolerance, max_iter, solver
        As in :class:`Unbalanced`.
    cost
        As in :class:`Entropic`, in squared data units: scales are those of the straight one.

    Examples
    --------
    Two clusters whose shares go from (½, ½) to (0.8, 0.2): nothing crosses.

    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x, y = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [0.0], [0.0], [0.0], [9.0]])
    >>> plan = Reach(1.0)(Snapshot(x, 0.0), Snapshot(y, 1.0))
    >>> grown = plan.source_growth + plan.target_growth[[0, 4]]
    >>> [round(float(factor), 3) for factor in grown.exp()]
    [1.6, 0.4]
    """

    reach: float | None = None
    scales: tuple[Scale, ...] = field(default=(), kw_only=True)
    relative_epsilon: float = field(default=EPSILON, kw_only=True)
    tolerance: float = field(default=1e-5, kw_only=True)
    max_iter: int = field(default=2000, kw_only=True)
    solver: str = field(default="auto", kw_only=True)
    cost: CostLike = field(default=HALF_SQUARED, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_cost(self.cost))
        endless = isinstance(self.reach, float) and self.reach == math.inf
        if self.reach is not None and not endless:
            _checks.number(self.reach, "reach", low=0.0, open_low=True)
        if not all(isinstance(each, Sequence) and len(each) == 3 for each in self.scales):
            expected = "a time, a reach and a regularisation for each interval"
            raise ValueError(_checks.message("scales", repr(self.scales), expected))
        object.__setattr__(self, "scales", tuple(Scale(*each) for each in self.scales))
        _checks.number(self.relative_epsilon, "relative_epsilon", low=0.0, open_low=True)
        _checks.number(self.tolerance, "tolerance", low=0.0, high=1.0, open_low=True)
        _checks.count(self.max_iter, "max_iter")
        _checks.choice(self.solver, ("auto", "batched"), "solver")

    def fitted_to(self, course: TimeCourse) -> Self:
        """Return this coupling with the scales of every interval of `course`, measured anew.

        Of strata, on that with the most cells at both ends.
        """
        fresh, of_time = replace(super().fitted_to(course), scales=()), {}
        for link in sorted(links(course), key=lambda link: min(len(s) for s in link[:2])):
            of_time[link.source.time] = link[:2]
        return replace(fresh, scales=tuple(fresh.scale(*of_time[t]) for t in sorted(of_time)))

    def scale(self, source: Snapshot, target: Snapshot) -> Scale:
        """Return reach and regularisation from `source` to `target`: measured, or as they were."""
        for known in self.scales:
            if known.time == source.time:
                return known
        pair = _some(source, 0), _some(target, 1)
        mean = _cost(*pair) or 1.0
        reach = self.reach or self.ground.reach(source, target)
        if reach is None and min(len(source), len(target)) >= FEWEST:
            reach = math.sqrt(2 * max(OF_NOISE * _noise(*pair), LEAST * mean))
        return Scale(
            source.time, None if reach == math.inf else reach, self.relative_epsilon * mean
        )

    def problem(self, source: Snapshot, target: Snapshot) -> Problem:
        cost = costs_of(self.ground, source, target)
        _, reach, epsilon = self.scale(source, target)
        rho = math.inf if reach is None else reach * reach / 2
        rows = Marginal(prior_weights(source, target), rho)
        return Problem(cost, Marginals(rows, Marginal(target.weights, rho), relative=True), epsilon)


def _some(s: Snapshot, stream: int) -> Snapshot:
    """Return at most `MOST` cells of a snapshot, in random order; always the same ones."""
    return s.shuffled(MOST, stream_rng(0, stream, 40))


def _cost(source: Snapshot, target: Snapshot) -> float:
    """Mean cost along the exact plan."""
    return Exact()(source, target).cost


def _noise(source: Snapshot, target: Snapshot) -> float:
    """Mean cost between two halves of a snapshot along leading components, of both snapshots."""
    x, y = centred(source, target)
    if x.shape[1] > LEADING:
        _, _, axes = torch.linalg.svd(torch.cat([x, y]), full_matrices=False)
        x, y = x @ axes[:LEADING].T, y @ axes[:LEADING].T
    return (_between_halves(x, source) + _between_halves(y, target)) / 2


def _between_halves(x: Tensor, s: Snapshot) -> float:
    half = len(x) // 2
    parts = (slice(half), slice(half, 2 * half))
    return _cost(*(Snapshot(x[part], s.time, s.mass[part]) for part in parts))
