"""Any plan as a list of pairs, with the marginals that it had."""

from __future__ import annotations

from dataclasses import fields

import torch

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.plans.forms import PairPlan
from cellflow.plans.plan import DENSE_LIMIT, Plan

#: Pairs drawn for each cell of the larger snapshot, of a plan too large to be written out.
DRAWS = 32
#: Sweeps that scale rows and columns back to their marginals.
_SWEEPS = 200
#: L1 error of the marginals that is rounding.
_ROUNDING = 1e-12


def sparsify(
    plan: Plan, *, keep: float = 0.999, limit: int = DENSE_LIMIT, generator: Rng = 0
) -> PairPlan:
    """Return `plan` as pairs; the marginals stay what they were.

    A plan of pairs is returned as it is. Of a plan of at most `limit` entries, the largest of each
    row and column stay that together hold at least `keep` of it. Of a larger one, 32 draws stay for
    each cell of the larger snapshot, an unbiased sample. Then rows and columns are scaled in turn
    to the marginals of the plan; the little that this cannot reach is moved along a staircase of at
    most n + m more pairs, so that marginals are exact to 1e-12. Of a drawn plan with growth only
    the rows are exact, and the columns as good as the draws.

    Memory is that of the plan written out up to `limit`, beyond it that of the draws, which
    follow the `generator` (or seed). Growth factors, health and cost are those of `plan`; the cost
    of the pairs differs from it by what was left out.
    """
    _checks.number(keep, "keep", low=0.0, high=1.0, open_low=True)
    if isinstance(plan, PairPlan):
        return plan
    n, m = plan.shape
    # Factors of the rows under which column sums are what pairs end with, up to the column's.
    lift = torch.ones_like(plan.row_mass)
    if plan.source_growth is not None:
        lift = (plan.source_growth - plan.source_growth.max()).exp()
    if n * m <= limit:
        matrix = plan.dense(limit)
        rows, cols = torch.nonzero(_largest(matrix, keep) | _largest(matrix.T, keep).T).T
        mass = matrix[rows, cols]
        ends = (lift[:, None] * matrix).sum(0)
    else:
        drawn = torch.stack(plan.sample(DRAWS * max(n, m), generator))
        (rows, cols), counts = torch.unique(drawn, dim=1, return_counts=True)
        mass = counts.double() / counts.sum()
        ends = plan.col_mass
        if plan.source_growth is not None:
            mass = mass * (plan.row_mass / mass.new_zeros(n).index_add_(0, rows, mass))[rows]
            ends = mass.new_zeros(m).index_add_(0, cols, mass * lift[rows])
    pairs = _fitted((rows, cols, mass * lift[rows]), plan.row_mass * lift, ends)
    mass = pairs[2] / lift[pairs[0]]
    health = {f.name: getattr(plan, f.name) for f in fields(Plan)}
    return PairPlan(rows=pairs[0], cols=pairs[1], mass=mass / mass.sum(), size=(n, m), **health)


def _largest(matrix: Tensor, keep: float) -> Tensor:
    """Mask of the largest entries of each row that hold `keep` of it; at least one."""
    values, order = matrix.sort(1, descending=True)
    before = values.cumsum(1) - values
    chosen = (before < keep * values.sum(1, keepdim=True)) & (values > 0)
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def _fitted(
    pairs: tuple[Tensor, Tensor, Tensor], row_mass: Tensor, col_mass: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `pairs` with these marginals: scaled, and completed where that is not enough."""
    rows, cols, mass = pairs
    total = row_mass.sum()
    col_mass = col_mass * (total / col_mass.sum())
    for _ in range(_SWEEPS):
        mass = mass * _factor(row_mass, _sums(mass, rows, len(row_mass)))[rows]
        reached = _sums(mass, cols, len(col_mass))
        mass = mass * _factor(col_mass, reached)[cols]
        if float((reached - col_mass).abs().sum()) <= _ROUNDING * float(total):
            break
    # What is left: down to the smaller of both, then the missing mass along a staircase.
    mass = mass * _factor(row_mass, _sums(mass, rows, len(row_mass))).clamp(max=1.0)[rows]
    mass = mass * _factor(col_mass, _sums(mass, cols, len(col_mass))).clamp(max=1.0)[cols]
    left = (row_mass - _sums(mass, rows, len(row_mass))).clamp(min=0.0)
    right = (col_mass - _sums(mass, cols, len(col_mass))).clamp(min=0.0)
    if float(left.sum()) <= _ROUNDING * float(total):
        return rows, cols, mass
    more = _staircase(left, right)
    both = torch.cat([torch.stack([rows, cols]), torch.stack(more[:2])], 1)
    (rows, cols), place = torch.unique(both, dim=1, return_inverse=True)
    return rows, cols, _sums(torch.cat([mass, more[2]]), place, len(rows))


def _sums(mass: Tensor, index: Tensor, size: int) -> Tensor:
    return mass.new_zeros(size).index_add_(0, index, mass)


def _factor(asked: Tensor, reached: Tensor) -> Tensor:
    """What takes the sums `reached` to those `asked` for, where there is anything to scale."""
    return torch.where(reached > 0, asked / reached.clamp(min=torch.finfo(asked.dtype).tiny), 1.0)


def _staircase(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with these marginals, of equal total: at most as many as cells on both sides."""
    a, b = left.cumsum(0), right.cumsum(0)
    ends = torch.cat([a, b * (a[-1] / b[-1])]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    mass = ends - starts
    middle = (starts + ends) / 2
    keep = mass > 0
    rows = torch.searchsorted(a, middle).clamp(max=len(a) - 1)
    cols = torch.searchsorted(b * (a[-1] / b[-1]), middle).clamp(max=len(b) - 1)
    return rows[keep], cols[keep], mass[keep]
