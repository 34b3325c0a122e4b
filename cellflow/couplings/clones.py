"""Plans that favour pairs of one clone."""

from __future__ import annotations

from dataclasses import replace

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.couplings.coupling import CouplingLike, centred
from cellflow.couplings.exact import Exact, most_pivots, network_simplex
from cellflow.couplings.reach import Reach
from cellflow.couplings.unbalanced import Unbalanced, growing_plan
from cellflow.plans import DENSE_LIMIT, Plan
from cellflow.plans.forms import pair_plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.solve import solve

#: Label of a cell whose clone is not known.
UNKNOWN = ""


def couple_clones(
    source: Snapshot, target: Snapshot, *, coupling: CouplingLike, bonus: float
) -> Plan:
    r"""Couple as `coupling` does, at costs that are less within a clone.

    Labels of cells are their clones, or :data:`UNKNOWN`. A pair costs
    :math:`\tfrac12\lVert x - y\rVert^2`, less :math:`p\,\tilde c` where both cells are known to be
    of one clone, with the `bonus` p and the median :math:`\tilde c` of
    :math:`\tfrac12\lVert x - y\rVert^2` over all pairs of `source` and `target`. Reach, relaxation
    and regularisation are measured without clones; where p is zero or no clone is on both sides, so
    is the plan. Its `cost` is without the bonus. Raises ValueError for more than 25 million pairs,
    and TypeError for another coupling than :class:`Exact`, :class:`Reach` and :class:`Unbalanced`.
    """
    if not isinstance(coupling, (Exact, Reach, Unbalanced)):
        got = getattr(coupling, "__name__", type(coupling).__name__)
        remedy = "Unbalanced(relaxation=None) is entropic."
        expected = "Exact, Reach or Unbalanced where clones are known"
        raise TypeError(_checks.message("coupling", got, expected, remedy))
    _checks.number(bonus, "clone_bonus", low=0.0)
    n, m = len(source), len(target)
    if n * m > DENSE_LIMIT:
        got, remedy = f"{n} × {m} cells", "Draw fewer cells of each time."
        raise ValueError(_checks.message("clones", got, f"up to {DENSE_LIMIT:,} pairs", remedy))
    others = ~_alike(source, target)
    if bonus == 0 or bool(others.all()):
        return coupling(source, target)
    if isinstance(coupling, Exact):
        cells, masses = centred(source, target), (source.weights, target.weights)
        cost = half_squared_distance(*cells)
        bound = coupling.max_iter or most_pivots(n, m)
        cost += bonus * cost.median() * others  # a constant more than said: costs stay positive
        found = network_simplex(*masses, cost, max_iter=bound)
        return pair_plan(found[:3], cells, masses, converged=found[3])
    bare = coupling.problem(source, target)
    p = bare._replace(cost=bare.cost + bonus * bare.cost.median() * others)
    s = solve(p, tolerance=coupling.tolerance, max_iter=coupling.max_iter, solver=coupling.solver)
    plan = growing_plan((source, target), p, s, tolerance=coupling.tolerance)
    return replace(plan, cost=float((plan.matrix * bare.cost).sum()))


def _alike(source: Snapshot, target: Snapshot) -> Tensor:
    """Whether two cells are known to be of one clone, ``(n, m)``."""
    numbers = {UNKNOWN: 0}
    clones = (s.labels or [UNKNOWN] * len(s) for s in (source, target))
    codes = ([numbers.setdefault(clone, len(numbers)) for clone in some] for some in clones)
    a, b = (torch.tensor(code, device=source.x.device) for code in codes)
    return (a[:, None] == b) & (b != 0)
