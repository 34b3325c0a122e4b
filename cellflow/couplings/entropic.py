"""Entropic optimal transport: the static Schrödinger bridge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import CostLike, as_cost, brownian_epsilon, half_squared_distance
from cellflow.couplings.coupling import COUPLINGS, HALF_SQUARED, Coupling, Pairs, centred, costs_of
from cellflow.couplings.exact import Exact
from cellflow.plans.forms import DensePlan, l1_error, moved_duals, potential_plan
from cellflow.plans.plan import DENSE_LIMIT, Plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.batched import solve_batch
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem, Solution
from cellflow.transport.entropic.solve import SOLVERS, solve
from cellflow.transport.entropic.tiled import Gibbs, TiledSolution, solve_tiled

#: Regularisation, relative to the mean cost, below which a plan is the exact one.
NEGLIGIBLE = 1e-6
#: Entries beyond which a plan is held as potentials, not as a matrix.
LARGE = DENSE_LIMIT
#: Entries up to which POT takes over where our solver does not converge: its sweeps are slow.
POT_ENTRIES = 2**22


@COUPLINGS.register("entropic")
@dataclass(frozen=True)
class Entropic(Coupling):
    r"""Pair cells by entropic optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`.

    With `sigma`, the regularisation is :math:`\varepsilon = \sigma^2 \cdot \text{span}`: the plan
    is the static Schrödinger bridge of the Brownian reference :math:`\sigma\,dW` (Léonard, 2014,
    "A survey of the Schrödinger problem", section 2). With `epsilon` it is the same for all spans.

    Solved in the log domain in float64, on the device of the cells: no regularisation
    underflows. If the solver does not converge all the same, POT's plan takes its place, or the
    exact one; `fallback` says which. Below a millionth of the mean cost, ε makes no visible
    difference (at most :math:`\varepsilon \log n` of the cost), and the plan is the exact one.

    **Size.** Up to 25 million pairs of cells (`LARGE`) the plan is a matrix: ``O(n m)`` memory,
    tens of passes, and factorisations of ``O(m³)`` where ε is small; blocks of 256 cells take
    milliseconds. Beyond, it is a :class:`~cellflow.plans.PotentialPlan`: memory of ``O(n + m)``,
    and some ten times :math:`\sqrt{\bar c / \varepsilon}` passes over pairs that are computed anew
    in tiles. One that did not converge in `max_iter` passes is returned as it is, with `converged`
    false.

    Parameters
    ----------
    sigma
        Diffusion of the reference, data units per square root of time; positive.
    epsilon
        Regularisation in squared data units, positive; exactly one of the two is given. (POT's
        ``reg`` for the full squared distance is twice `epsilon`.)
    tolerance
        L1 error of the marginals that counts as converged.
    max_iter
        Bound on the number of Sinkhorn sweeps and Newton steps together, or of passes.
    solver
        ``"auto"``: compiled on the CPU, in tensors on an accelerator. ``"batched"``: in tensors
        everywhere. ``"pot"``: the log-domain Sinkhorn of POT (``ot.bregman.sinkhorn_log``) on the
        CPU, the reference, which needs some :math:`\bar c / \varepsilon` sweeps. Plans held as
        potentials have a solver of their own.
    cost
        As in :class:`Exact`. The regularisation is in units of this cost; only for the half squared
        distance is that of `sigma` the one of a Brownian reference.

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
    solver: str = field(default="auto", kw_only=True)
    cost: CostLike = field(default=HALF_SQUARED, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_cost(self.cost))
        if (self.sigma is None) == (self.epsilon is None):
            got = "neither" if self.sigma is None else "both"
            remedy = "Give `sigma` for a Brownian reference."
            raise ValueError(_checks.message("sigma, epsilon", got, "exactly one of them", remedy))
        for name in ("sigma", "epsilon"):
            value = getattr(self, name)
            if value is not None:
                value = _checks.number(value, name, low=0.0, open_low=True)
                object.__setattr__(self, name, value)
        _checks.number(self.tolerance, "tolerance", low=0.0, high=1.0, open_low=True)
        _checks.count(self.max_iter, "max_iter")
        _checks.choice(self.solver, SOLVERS, "solver")

    @classmethod
    def for_diffusion(cls, sigma: Callable[[], float]) -> Self:
        """Return the coupling of a Brownian reference whose diffusion `sigma` tells."""
        return cls(sigma=sigma())

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Self:
        return cls(epsilon=0.2)

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        """Couple `source` and `target`; with `sigma`, the target is the later one.

        The plan is an ``(n, m)`` matrix, potentials where that would have more than 25 million
        entries, or pairs where the exact plan had to replace it.
        """
        p = self._pair(source, target)
        if p.exact:
            return Exact(cost=self.cost)(source, target)
        if p.large:
            s = solve_tiled(p.gibbs, p.masses, tolerance=self.tolerance, max_iter=self.max_iter)
            reason = f"{unconverged(p.gibbs.epsilon, s)}; its best plan is used"
            fallback = None if s.error <= self.tolerance else reason
            return potential_plan(p.gibbs, p.masses, s.h, shift=p.shift, fallback=fallback)
        return self._dense(p, self._solve(p, self.solver))

    def _together(self, pairs: Pairs) -> list[Plan]:
        """Couple pairs of one size at once, but for those that make no matrix."""
        parts = [self._pair(*pair) for pair in pairs]
        tasks = [p.dense for p in parts if not (p.exact or p.large)]
        left = iter(solve_batch(tasks, tolerance=self.tolerance, max_iter=self.max_iter))
        return [
            self(p.source, p.target) if p.exact or p.large else self._dense(p, next(left))
            for p in parts
        ]

    def _pair(self, source: Snapshot, target: Snapshot) -> _Pair:
        x, y = centred(source, target)
        means = x.mean(0), y.mean(0)
        # Centred each on its own mean: the plan is the same, the costs are smaller.
        gibbs = Gibbs(x - means[0], y - means[1], self.epsilon_for(source, target))
        ground = None if self.cost == HALF_SQUARED else costs_of(self.ground, source, target)
        return _Pair(source, target, gibbs, means[0] - means[1], ground)

    def _solve(self, p: _Pair, solver: str) -> Solution:
        return solve(p.dense, tolerance=self.tolerance, max_iter=self.max_iter, solver=solver)

    def _dense(self, p: _Pair, s: Solution) -> Plan:
        """Return the plan of a solution, or of what replaces it."""
        fallback = None
        if not s.error <= self.tolerance:  # also when it is not a number
            fallback = unconverged(p.gibbs.epsilon, s)
            if self.solver != "pot" and s.plan.numel() <= POT_ENTRIES:
                s = self._solve(p, "pot")
            if not s.error <= self.tolerance:
                exact = Exact(cost=self.cost)(p.source, p.target)
                return replace(exact, fallback=f"{fallback}; the exact plan is used")
            fallback = f"{fallback}; the plan of POT's solver is used"
        matrix = s.plan / s.plan.sum()
        a, b = p.masses
        duals = s.f - p.gibbs.epsilon * a.log(), s.g - p.gibbs.epsilon * b.log()
        if p.ground is None:
            duals = moved_duals(duals, (p.gibbs.x, p.gibbs.y), p.shift)
        cost = half_squared_distance(p.gibbs.x + p.shift, p.gibbs.y)
        return DensePlan(
            matrix=matrix,
            cost=float((matrix * cost).sum()),
            marginal_error=l1_error((matrix.sum(1), matrix.sum(0)), p.masses),
            fallback=fallback,
            duals=duals,
        )

    def epsilon_for(self, source: Snapshot, target: Snapshot) -> float:
        """Regularisation ε between `source` and the later `target`, in squared data units."""
        if self.epsilon is not None:
            return self.epsilon
        return brownian_epsilon(self.sigma or 0.0, target.time - source.time)


class _Pair(NamedTuple):
    """Two snapshots, their cells about their own means, what lies between, and other costs."""

    source: Snapshot
    target: Snapshot
    gibbs: Gibbs
    shift: Tensor
    ground: Tensor | None

    @property
    def masses(self) -> tuple[Tensor, Tensor]:
        return self.source.weights, self.target.weights

    @property
    def exact(self) -> bool:
        """Whether the regularisation is next to none."""
        mean = self.gibbs.mean_cost if self.ground is None else float(self.ground.mean())
        return self.gibbs.epsilon < NEGLIGIBLE * mean

    @property
    def large(self) -> bool:
        """Whether the plan is not to be a matrix."""
        return self.ground is None and len(self.source) * len(self.target) > LARGE

    @property
    def dense(self) -> Problem:
        """The problem with its cost matrix."""
        (a, b), (x, y, epsilon) = self.masses, self.gibbs
        cost = half_squared_distance(x, y) if self.ground is None else self.ground
        return Problem(cost, Marginals(Marginal(a), Marginal(b)), epsilon)


def unconverged(epsilon: float, s: Solution | TiledSolution) -> str:
    """Say how far the solver came."""
    return (
        f"sinkhorn did not converge at epsilon {epsilon:.3g}: marginal error "
        f"{s.error:.2g} after {s.iterations} iterations"
    )
