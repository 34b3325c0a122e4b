"""Exact optimal transport, for the half squared distance or another cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import CostLike, as_cost, half_squared_distance
from cellflow.couplings.coupling import COUPLINGS, HALF_SQUARED, Coupling, centred, costs_of
from cellflow.plans import Plan
from cellflow.plans.forms import Duals, PairPlan, moved_duals, pair_plan, permutation_plan
from cellflow.timecourse import Snapshot
from cellflow.transport.assignment.solve import assign, assign_blocks
from cellflow.transport.network.matrix import solve_matrix
from cellflow.transport.network.solve import FEWEST, LARGE, solve_clouds

#: Duality gap, relative to the cost, up to which a plan counts as optimal.
GAP = 1e-9
SOLVERS = ("auto", "pot")

#: Rows, cols and mass of pairs, their duals, and whether these certify them.
Certified: TypeAlias = tuple[tuple[Tensor, Tensor, Tensor], Duals, bool]


@COUPLINGS.register("exact")
@dataclass(frozen=True)
class Exact(Coupling):
    r"""Pair cells by optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`.

    As many source as target cells, all of equal mass, are assigned one to one
    (:mod:`cellflow.transport.assignment.solve`). Anything else is solved by a network simplex,
    which splits cells: from two million pairs of cells on by column generation
    (:mod:`cellflow.transport.network.solve`, which :mod:`cellflow.metrics` shares), below and
    where that is not certified by POT's. All run on the CPU in float64, and all are certified by
    their dual potentials: `converged` says that the duality gap is below 1e-9 of the cost.

    Parameters
    ----------
    max_iter
        Bound on the pivots of the network simplex; ``100_000 + 1_000 (n + m)`` when omitted,
        several times what it needs. (At POT's own default the plan is 1–2 % off above some
        thousand cells, with no more than a warning.)
    solver
        ``"auto"``, or ``"pot"`` to solve every problem by POT's network simplex, as a reference.
    cost
        Another ground cost, by its name in :data:`cellflow.costs.COSTS` or as in
        :func:`cellflow.costs.as_cost`; then up to 25 million pairs of cells. The plan's `cost`
        stays the straight one, and its `duals` are those of this.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> plan = Exact()(Snapshot(x, 0.0), Snapshot(x.flip(0) + 2.0, 1.0))
    >>> plan.cols.tolist(), plan.cost, plan.is_permutation
    ([2, 1, 0], 2.0, True)
    """

    on_cpu: ClassVar[bool] = True

    max_iter: int | None = None
    solver: str = "auto"
    cost: CostLike = field(default=HALF_SQUARED, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_cost(self.cost))
        if self.max_iter is not None:
            _checks.count(self.max_iter, "max_iter")
        _checks.choice(self.solver, SOLVERS, "solver")

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        x, y = centred(source, target)
        n, m = len(x), len(y)
        auto, straight = self.solver == "auto", self.cost == HALF_SQUARED
        one_to_one = auto and n == m and source.is_uniform and target.is_uniform
        if one_to_one and straight:
            return _assign_many(x[None], y[None])[0]
        bound = most_pivots(n, m) if self.max_iter is None else self.max_iter
        masses = source.weights, target.weights
        if not straight:
            cost = costs_of(self.ground, source, target)
            found = assign_costs(cost) if one_to_one else None
            pairs, duals, good = found or network_simplex(*masses, cost, max_iter=bound)
            return pair_plan(pairs, (x, y), masses, duals=duals, converged=good)
        # About their own means: the same plan, no digits lost to distance.
        means = x.mean(0), y.mean(0)
        inner, found = (x - means[0], y - means[1]), None
        if auto and n * m >= LARGE and min(n, m) >= FEWEST:
            found = _by_columns(*inner, masses, max_iter=bound)
        if found is None:
            found = network_simplex(*masses, half_squared_distance(*inner), max_iter=bound)
        duals = moved_duals(found[1], inner, means[0] - means[1])
        return pair_plan(found[0], (x, y), masses, duals=duals, converged=found[2])

    def many(self, sources: Sequence[Snapshot], targets: Sequence[Snapshot]) -> list[Plan]:
        shapes = {s.x.shape for s in (*sources, *targets)}
        alike = len(shapes) == 1 and all(s.is_uniform for s in (*sources, *targets))
        if not alike or self.solver != "auto" or self.cost != HALF_SQUARED:
            return super().many(sources, targets)
        cells = [centred(source, target) for source, target in zip(sources, targets, strict=True)]
        return [*_assign_many(*(torch.stack(side) for side in zip(*cells, strict=True)))]


def most_pivots(n: int, m: int) -> int:
    """Bound on the pivots of a network simplex, several times what n + m cells need."""
    return 100_000 + 1_000 * (n + m)


def _assign_many(x: Tensor, y: Tensor) -> list[PairPlan]:
    """Assign cells one to one in each of B blocks ``(B, n, d)``, certified by their duals."""
    device, moved = x.device, y.mean(1, keepdim=True) - x.mean(1, keepdim=True)
    size = (x.square() + y.square()).sum((1, 2))
    # Of clouds at one point the centring leaves rounding, which no gap is measured by.
    rounding = torch.finfo(x.dtype).eps ** 2 * size
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    found = assign_blocks(x.cpu().numpy(), y.cpu().numpy())
    cols, prices = (torch.as_tensor(part, device=device) for part in found)
    gaps = x - torch.take_along_dim(y, cols[..., None], 1)
    primal = 0.5 * gaps.square().sum((1, 2))
    spread = (x.square() + y.square()).sum((1, 2))
    allowed = GAP * (primal + 1e-6 * spread) + 16 * rounding
    optimal = primal - prices.sum((1, 2)) <= allowed
    costs = primal / x.shape[1] + 0.5 * moved.square().sum((1, 2))
    duals = zip(*moved_duals((prices[:, 0], prices[:, 1]), (x, y), -moved), strict=True)
    return [
        permutation_plan(c, cost=cost, duals=pair, converged=good)
        for c, cost, pair, good in zip(cols, costs.tolist(), duals, optimal.tolist(), strict=True)
    ]


def assign_costs(cost: Tensor) -> Certified:
    """Assign cells of equal mass one to one at costs ``(n, n)``."""
    n = len(cost)
    cols, *duals = (torch.from_numpy(z).to(cost.device) for z in assign(cost.cpu().numpy()))
    rows = torch.arange(n, device=cost.device)
    primal = cost[rows, cols].sum()
    gap = primal - sum(dual.sum() for dual in duals)
    mass = torch.full((n,), 1.0 / n, dtype=torch.float64, device=cost.device)
    good = bool(gap <= GAP * (primal + 1e-6 * cost.sum() / n))
    return (rows, cols, mass), (duals[0], duals[1]), good


def _by_columns(
    x: Tensor, y: Tensor, masses: tuple[Tensor, Tensor], *, max_iter: int
) -> Certified | None:
    """Solve by column generation; None without a certificate."""
    found = solve_clouds(x, y, masses, power=2, max_pivots=max_iter)
    if found is None or not found.certified:
        return None
    parts = found.rows, found.cols, found.mass, found.u / 2, found.v / 2
    rows, cols, mass, u, v = (torch.as_tensor(part, device=x.device) for part in parts)
    return (rows, cols, mass), (u, v), True


def network_simplex(a: Tensor, b: Tensor, cost: Tensor, *, max_iter: int) -> Certified:
    """Run POT's network simplex.

    `cost` ``(n, m)`` is overwritten.
    """
    p, q, c = (value.cpu().numpy() for value in (a, b, cost))
    largest = float(c.max())
    flow = solve_matrix(c, p, q, max_pivots=max_iter)
    converged = flow.complete and flow.gap <= GAP * max(flow.cost, GAP * largest)
    converged = converged and flow.violation <= GAP * largest
    mass = flow.mass / flow.mass.sum()  # one already, unless the bound was hit
    parts = flow.rows, flow.cols, mass, flow.u, flow.v
    rows, cols, share, u, v = (torch.as_tensor(part, device=a.device) for part in parts)
    return (rows, cols, share), (u, v), converged
