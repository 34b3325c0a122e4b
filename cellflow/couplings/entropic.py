"""Entropic optimal transport: the static Schrödinger bridge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import brownian_epsilon, half_squared_distance
from cellflow.couplings.coupling import COUPLINGS, Coupling, centred
from cellflow.couplings.exact import Exact
from cellflow.couplings.many import matched, together
from cellflow.plans.forms import DensePlan, l1_error
from cellflow.plans.plan import DENSE_LIMIT, Plan
from cellflow.plans.potential import potential_plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic import batched, sinkhorn, tiled
from cellflow.transport.entropic.marginals import Side, Sides
from cellflow.transport.entropic.sinkhorn import Solution
from cellflow.transport.entropic.tiled import Gibbs

#: Regularisation, relative to the mean cost, below which a plan is the exact one.
NEGLIGIBLE = 1e-6
#: Entries beyond which a plan is held as potentials, not as a matrix.
LARGE = DENSE_LIMIT


@COUPLINGS.register("entropic")
@dataclass(frozen=True)
class Entropic(Coupling):
    r"""Pair cells by entropic optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`.

    With `sigma`, the regularisation is :math:`\varepsilon = \sigma^2 \cdot \text{span}`: the plan
    is the static Schrödinger bridge of the Brownian reference :math:`\sigma\,dW` (Léonard, 2014,
    "A survey of the Schrödinger problem", section 2), and follows the time between the snapshots.
    With `epsilon` it is the same for all spans.

    Solved in the log domain in float64, on the device of the cells: no regularisation
    underflows. If the solver does not converge all the same, the exact plan takes its place and
    says so in `fallback`. Below a millionth of the mean cost, ε makes no difference that could be
    seen (the cost of the plan rises by at most :math:`\varepsilon \log n`), and the exact plan is
    what is returned.

    **Size.** Up to 25 million pairs of cells (`LARGE`) the plan is a matrix: ``O(n m)`` memory,
    tens of passes, and factorisations of ``O(m³)`` where ε is small; blocks of 256 cells take
    milliseconds. Beyond, it is a :class:`~cellflow.plans.PotentialPlan`: memory
    of ``O(n + m)``, and some ten times :math:`\sqrt{\bar c / \varepsilon}` passes over pairs
    that are computed anew in tiles (:mod:`cellflow.transport.entropic.tiled`). One that did not
    converge in `max_iter` passes is returned as it is, with `converged` false: there is no exact
    plan to take its place.

    Parameters
    ----------
    sigma
        Diffusion of the reference, data units per square root of time; positive.
    epsilon
        Regularisation in squared data units, for the half squared distance; positive. Exactly
        one of `sigma` and `epsilon` is given. (POT's ``reg`` for the full squared distance is
        twice `epsilon`.)
    tolerance
        L1 error of the marginals that counts as converged.
    max_iter
        Bound on the number of Sinkhorn sweeps and Newton steps together, or of passes.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of `sigma` and `epsilon` is given, or an argument is out of bounds.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> narrow, wide = Entropic(sigma=0.1), Entropic(sigma=10.0)
    >>> source, target = Snapshot(x, 0.0), Snapshot(x, 2.0)
    >>> round(narrow(source, target).partners, 3), round(wide(source, target).partners, 3)
    (1.0, 2.0)
    """

    sigma: float | None = None
    epsilon: float | None = None
    tolerance: float = field(default=1e-6, kw_only=True)
    max_iter: int = field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        if (self.sigma is None) == (self.epsilon is None):
            got = "neither" if self.sigma is None else "both"
            raise ValueError(
                _checks.message(
                    "sigma, epsilon",
                    got,
                    "exactly one of them",
                    "Give `sigma` for a Brownian reference.",
                )
            )
        for name in ("sigma", "epsilon"):
            value = getattr(self, name)
            if value is not None:
                value = _checks.number(value, name, low=0.0, open_low=True)
                object.__setattr__(self, name, value)
        _checks.number(self.tolerance, "tolerance", low=0.0, high=1.0, open_low=True)
        _checks.count(self.max_iter, "max_iter")

    @classmethod
    def for_diffusion(cls, sigma: Callable[[], float]) -> Self:
        """Return the coupling of a Brownian reference whose diffusion `sigma` tells."""
        return cls(sigma())

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        p = self._problem(source, target)
        if p.exact:
            return Exact()(source, target)
        limits = {"tolerance": self.tolerance, "max_iter": self.max_iter}
        if len(p.gibbs.x) * len(p.gibbs.y) > LARGE:
            return self._streamed(p, tiled.solve(p.gibbs, p.masses, **limits))
        cost = half_squared_distance(p.gibbs.x, p.gibbs.y)
        return self._dense(p, sinkhorn.solve(cost, p.masses, epsilon=p.gibbs.epsilon, **limits))

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Entropic:
        """Return an instance for the law tests, fit to couple `source` and `target`."""
        return cls(epsilon=0.2)

    def many(self, sources: Sequence[Snapshot], targets: Sequence[Snapshot]) -> list[Plan]:
        """Couple many pairs of snapshots.

        On an accelerator, pairs of as many cells are solved together, each until it has
        converged; on the CPU, where nothing is gained by that, one after the other.

        Parameters
        ----------
        sources, targets
            As many snapshots each, coupled one by one: the first source with the first target.

        Returns
        -------
        The plans that a call for each pair would give, up to the tolerance.

        Raises
        ------
        TypeError, ValueError
            If there are not as many of both, or two do not fit each other.
        """
        return together(self, matched(sources, targets), self._together)

    def _problem(self, source: Snapshot, target: Snapshot) -> _Problem:
        x, y = centred(source, target)
        means = x.mean(0), y.mean(0)
        # Centred each on its own mean: the plan is the same, the costs are smaller.
        gibbs = Gibbs(x - means[0], y - means[1], self.epsilon_for(source, target))
        return _Problem(source, target, gibbs, means[0] - means[1])

    def _together(self, pairs: Sequence[tuple[Snapshot, Snapshot]]) -> list[Plan | None]:
        """Solve pairs of one size at once; None where one needs another solver."""
        plans: list[Plan | None] = [None] * len(pairs)
        if len(pairs[0][0]) * len(pairs[0][1]) > LARGE:
            return plans
        known = {k: self._problem(*pair) for k, pair in enumerate(pairs)}
        problems = {k: p for k, p in known.items() if not p.exact}
        if not problems:
            return plans
        left, right = (
            Sides.of([Side(p.masses[k], math.inf, False) for p in problems.values()])
            for k in (0, 1)
        )
        costs = [half_squared_distance(p.gibbs.x, p.gibbs.y) for p in problems.values()]
        s = batched.solve(
            torch.stack(costs),
            (left, right),
            epsilon=left.mass.new_tensor([p.gibbs.epsilon for p in problems.values()]),
            relative=False,
            tolerance=self.tolerance,
            max_iter=self.max_iter,
        )
        for at, (k, error) in enumerate(zip(problems, s.error.tolist(), strict=True)):
            if error <= self.tolerance:
                solution = Solution(s.f[at], s.g[at], s.plan[at], error, s.iterations)
                plans[k] = self._dense(problems[k], solution)
        return plans

    def _dense(self, p: _Problem, s: Solution) -> Plan:
        """Make the plan of a solution."""
        if not s.error <= self.tolerance:  # also when it is not a number
            return replace(Exact()(p.source, p.target), fallback=_reason(p, s))
        matrix = s.plan / s.plan.sum()
        cost = half_squared_distance(p.gibbs.x + p.shift, p.gibbs.y)
        return DensePlan(
            matrix=matrix,
            cost=float((matrix * cost).sum()),
            marginal_error=l1_error((matrix.sum(1), matrix.sum(0)), p.masses),
        )

    def _streamed(self, p: _Problem, s: tiled.Streamed) -> Plan:
        """Make the plan of potentials, whether they converged or not."""
        reached = s.error <= self.tolerance
        return potential_plan(
            p.gibbs,
            p.masses,
            s.h,
            shift=p.shift,
            converged=reached,
            fallback=None if reached else f"{_reason(p, s)}; its best plan is used",
        )

    def epsilon_for(self, source: Snapshot, target: Snapshot) -> float:
        """Regularisation between two snapshots.

        Parameters
        ----------
        source, target
            The snapshots, of which only the times matter.

        Returns
        -------
        ε for the half squared distance, in squared data units.

        Raises
        ------
        ValueError
            If `sigma` is given and the target is not later than the source.
        """
        if self.sigma is None:
            return float(self.epsilon)
        return brownian_epsilon(self.sigma, target.time - source.time)


class _Problem(NamedTuple):
    """Two snapshots, their cells about their own means, and what lies between these."""

    source: Snapshot
    target: Snapshot
    gibbs: Gibbs
    shift: Tensor

    @property
    def masses(self) -> tuple[Tensor, Tensor]:
        return self.source.weights, self.target.weights

    @property
    def exact(self) -> bool:
        """Whether the regularisation is next to none."""
        return self.gibbs.epsilon < NEGLIGIBLE * self.gibbs.mean_cost


def _reason(p: _Problem, s: Solution | tiled.Streamed) -> str:
    return (
        f"sinkhorn did not converge at epsilon {p.gibbs.epsilon:.3g}: marginal error "
        f"{s.error:.2g} after {s.iterations} iterations"
    )
