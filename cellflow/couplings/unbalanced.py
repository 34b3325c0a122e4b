"""Unbalanced optimal transport: cells divide and die between two snapshots."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import CostLike, as_cost, brownian_epsilon
from cellflow.couplings.coupling import COUPLINGS, HALF_SQUARED, Coupling, Pairs, costs_of
from cellflow.couplings.entropic import unconverged
from cellflow.plans.forms import DensePlan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.batched import solve_batch
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem, Solution
from cellflow.transport.entropic.solve import solve

#: Factors of growth relative to the mean cell's are kept between 1 / BOUND and BOUND.
BOUND = 1e6
#: Least relaxation: below it, a plan keeps no mass that float64 could hold.
LEAST = 1e-3
#: Share of the mass below which what is unmatched is rounding.
SPECK = 1e-9


class Growing(ABC):
    """What couplings share whose plans have growth factors."""

    grows: ClassVar[bool] = True
    tolerance: float
    max_iter: int
    solver: str

    @abstractmethod
    def problem(self, source: Snapshot, target: Snapshot) -> Problem:
        """Return the costs and marginals that `source` and `target` are coupled by."""

    def __call__(self, source: Snapshot, target: Snapshot) -> DensePlan:
        """Couple `source` and the later `target`: an ``(n, m)`` matrix with growth factors."""
        p = self.problem(source, target)
        s = solve(p, tolerance=self.tolerance, max_iter=self.max_iter, solver=self.solver)
        return growing_plan((source, target), p, s, tolerance=self.tolerance)

    def _together(self, pairs: Pairs) -> list[DensePlan]:
        """Couple pairs of one size, those with exact marginals and the others at once each."""
        problems = [self.problem(*pair) for pair in pairs]
        plans: dict[int, DensePlan] = {}
        for exact in (True, False):
            some = [k for k, p in enumerate(problems) if p.marginals.exact == exact]
            found = solve_batch(
                [problems[k] for k in some], tolerance=self.tolerance, max_iter=self.max_iter
            )
            for k, s in zip(some, found, strict=True):
                plans[k] = growing_plan(pairs[k], problems[k], s, tolerance=self.tolerance)
        return [plans[k] for k in range(len(pairs))]


@COUPLINGS.register("unbalanced")
@dataclass(frozen=True)
class Unbalanced(Growing, Coupling):
    r"""Pair cells by entropic transport with a relaxed source, for the cost ``½|x − y|²``.

    .. math:: \min_{\pi^\top 1 = b}\; \langle \pi, c \rangle
       + \varepsilon\,\mathrm{KL}(\pi \mid a \otimes b) + \rho\,\mathrm{KL}(\pi 1 \mid a)

    with `a` and `b` the weights of the cells, each of total one (Chizat, Peyré, Schmitzer and
    Vialard, 2018, "Scaling algorithms for unbalanced optimal transport problems", section 3). A
    source cell whose row sums to more than its weight divided, one whose row sums to less died.
    The plan has the source's weights as rows, and growth factors that take its pairs to the
    target's weights exactly, whatever the relaxation (see :class:`~cellflow.plans.Plan`).

    **Scales.** `relaxation` is in units of the mean cost between the snapshots,
    :math:`\bar c = \sum_{ij} a_i b_j c_{ij}`: a cell that costs :math:`k \rho` more to
    transport keeps :math:`e^{-k}` of its mass at most. The default, a
    source relaxed by 1 and an exact target, is the setting of Waddington-OT (Schiebinger et al.,
    2019), there with λ₁ = 1, λ₂ = 50 and a cost in units of its median: the later
    cells are data, which earlier ones had descendants is a guess. Unlike moscot's ``tau``, which is
    :math:`\rho / (\rho + \varepsilon)`, it does not change its meaning with ε.

    **Growth.** Where the source snapshot has `growth`, `a` is replaced by
    :math:`a_i \exp(\text{growth}_i \cdot \text{span})`, scaled to total one: the prior, from which
    the relaxation may deviate. The ratio of the total masses of the snapshots is part of the
    source's growth factors. Factors below 1e-6 of the mean cell's are set to that, those of
    target cells above 1e6 likewise.

    Solved as :class:`Entropic` is. A plan that did not converge has all the properties above but
    is not the best one: `converged` and `fallback` say so. Its `marginal_error` is that of the
    solver: how far the marginals are from those that are best for its potentials.

    Parameters
    ----------
    sigma, epsilon
        As in :class:`Entropic`; at most one of the two is given.
    relative_epsilon
        Regularisation in units of the mean cost :math:`\bar c`, used when neither is given. By
        default small, for nearly unique partners: 2 to 5 among 256 to 550 embryoid cells, where
        Waddington-OT's 0.05, made for fates, leaves 46 to 104. Growth hardly depends on it.
    relaxation
        Strength :math:`\rho` of the penalty, in units of :math:`\bar c`, at least 1e-3: a small
        one lets go of the source's masses. None, or infinity: they are exact (equal to the prior).
    tolerance, max_iter, solver, cost
        As in :class:`Entropic`, with errors relative to the mass of the plan, and no ``"pot"``.

    Examples
    --------
    Two clusters whose shares go from (½, ½) to (0.8, 0.2): one grows by 1.6, one shrinks to 0.4.

    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x, y = torch.tensor([[0.0], [9.0]]), torch.tensor([[0.0], [0.0], [0.0], [0.0], [9.0]])
    >>> plan = Unbalanced()(Snapshot(x, 0.0), Snapshot(y, 1.0))
    >>> [round(float(factor), 3) for factor in plan.source_growth.exp()]
    [1.6, 0.4]
    """

    sigma: float | None = None
    epsilon: float | None = None
    relative_epsilon: float = field(default=0.005, kw_only=True)
    relaxation: float | None = field(default=1.0, kw_only=True)
    tolerance: float = field(default=1e-6, kw_only=True)
    max_iter: int = field(default=2000, kw_only=True)
    solver: str = field(default="auto", kw_only=True)
    cost: CostLike = field(default=HALF_SQUARED, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_cost(self.cost))
        if self.sigma is not None and self.epsilon is not None:
            raise ValueError(_checks.message("sigma, epsilon", "both", "at most one of them"))
        for name in ("sigma", "epsilon", "relative_epsilon"):
            value = getattr(self, name)
            if value is not None:
                value = _checks.number(value, name, low=0.0, open_low=True)
                object.__setattr__(self, name, value)
        if isinstance(self.relaxation, float) and self.relaxation == math.inf:
            object.__setattr__(self, "relaxation", None)  # which files can hold
        elif self.relaxation is not None:
            _checks.number(self.relaxation, "relaxation", low=LEAST)
        _checks.number(self.tolerance, "tolerance", low=0.0, high=1.0, open_low=True)
        _checks.count(self.max_iter, "max_iter")
        _checks.choice(self.solver, ("auto", "batched"), "solver")

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Self:
        return cls(relative_epsilon=0.1)

    def problem(self, source: Snapshot, target: Snapshot) -> Problem:
        cost = costs_of(self.ground, source, target)
        bare = self.ground.bare(source, target)
        unit = float(source.weights @ bare @ target.weights) or 1.0
        rho = math.inf if self.relaxation is None else self.relaxation * unit
        rows = Marginal(prior_weights(source, target), rho)
        marginals = Marginals(rows, Marginal(target.weights), relative=True)
        if self.sigma is not None:
            epsilon = brownian_epsilon(self.sigma, target.time - source.time)
        else:
            epsilon = self.relative_epsilon * unit if self.epsilon is None else self.epsilon
        return Problem(cost, marginals, epsilon)


def growing_plan(
    pair: tuple[Snapshot, Snapshot], p: Problem, s: Solution, *, tolerance: float
) -> DensePlan:
    """Return the plan of potentials, with growth factors that take it to both snapshots."""
    (source, target), (cost, marginals, epsilon) = pair, p
    scores = (s.f[:, None] + s.g[None, :] - marginals.reference(cost, epsilon)) / epsilon
    if not bool(scores.isfinite().all()):
        raise ValueError(_checks.message("epsilon", f"{epsilon:.3g}", "one nearer to the costs"))
    matrix = source.weights[:, None] * torch.softmax(scores, 1)
    rows = torch.logsumexp(scores, 1)
    mass = torch.logsumexp(rows, 0)
    prior = marginals.rows
    attained = prior.mass if prior.exact else torch.exp(rows - mass)
    # From the source's weights to the rows attained, and from there to the columns.
    bound = math.log(BOUND)
    left = (attained / source.weights).log().clamp(min=-bound)
    right = (target.weights / (left.exp() @ matrix)).log().clamp(max=bound)
    lack = target.weights - left.exp() @ (matrix * right.exp())
    unmatched = float(lack.clamp(min=0.0).sum())
    ratio = target.total_mass / source.total_mass
    reason = None
    if not s.error <= tolerance:
        reason = f"unbalanced {unconverged(epsilon, s)}; its last plan is used"
    return DensePlan(
        matrix=matrix,
        cost=float((matrix * HALF_SQUARED(source, target)).sum()),
        converged=reason is None,
        marginal_error=min(s.error, 2.0),
        fallback=reason,
        unmatched=unmatched if unmatched > SPECK else 0.0,
        source_growth=left + math.log(ratio),
        target_growth=right,
        duals=(s.f, s.g),
    )


def prior_weights(source: Snapshot, target: Snapshot) -> Tensor:
    """Return the weights of the source, grown by the prior to the time of the target."""
    weights = source.weights
    if source.growth is None:
        return weights
    span = _checks.number(target.time - source.time, "span", low=0.0, open_low=True)
    log = source.growth.detach().double() * span
    log = log - torch.logsumexp(log + weights.log(), 0)
    prior = weights * log.clamp(min=-math.log(BOUND)).exp()
    return prior / prior.sum()
