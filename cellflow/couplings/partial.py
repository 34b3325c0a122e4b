"""Partial optimal transport: a known share of the mass has no counterpart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.couplings.coupling import COUPLINGS, Coupling, centred
from cellflow.couplings.exact import Exact, most_pivots, network_simplex
from cellflow.plans.forms import PairPlan
from cellflow.timecourse import Snapshot

#: Share of the smallest cell's mass below which a pair is rounding.
SMALLEST_PAIR = 1e-9


@COUPLINGS.register("partial")
@dataclass(frozen=True)
class Partial(Coupling):
    r"""Pair a known fraction of the mass, at least cost ``½|x − y|²``, and leave out the rest.

    For cells that are known to be missing on the other side: a cell type lost in dissociation, a
    population that had not yet arrived. Both sides leave out ``1 - fraction`` of their mass, where
    that is cheapest. Where cells divide and die, use :class:`~cellflow.couplings.Unbalanced`.

    Solved exactly, as a transport problem with one more cell on each side that takes up what is
    left out for free (Chapel, Alaya and Gasso, 2020, "Partial optimal transport with applications
    on positive-unlabeled learning", section 3), by POT's network simplex on the CPU, certified by
    its dual potentials; if that stops at its bound, the exact plan of all mass takes its place and
    says so in `fallback`. The plan lists matched pairs only, scaled to total mass one; `unmatched`
    is what it leaves out, and `marginal_error` the mass by which cells exceed their weights.

    The share of each side's mass that is matched, `fraction`, is in (0, 1]; `max_iter` is as in
    :class:`Exact`.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0], [90.0], [2.0]])
    >>> plan = Partial(0.75)(Snapshot(x, 0.0), Snapshot(torch.arange(4.0)[:, None], 1.0))
    >>> plan.rows.tolist(), plan.cols.tolist(), plan.unmatched
    ([0, 1, 3], [0, 1, 2], 0.25)
    """

    leaves_out: ClassVar[bool] = True

    fraction: float
    max_iter: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _checks.number(self.fraction, "fraction", low=0.0, high=1.0, open_low=True)
        if self.max_iter is not None:
            _checks.count(self.max_iter, "max_iter")

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        if self.fraction == 1:
            return Exact(self.max_iter)(source, target)
        x, y = centred(source, target)
        n, m = len(x), len(y)
        a, b = source.weights, target.weights
        cost = half_squared_distance(x, y)
        bound = most_pivots(n, m) if self.max_iter is None else self.max_iter
        left = 1.0 - self.fraction
        (rows, cols, mass), _, converged = network_simplex(
            _with_rest(a, left), _with_rest(b, left), _with_dummies(cost), max_iter=bound
        )
        mass = mass * (1.0 + left)  # which was scaled to one
        least = SMALLEST_PAIR * float(torch.minimum(a.min(), b.min()))
        keep = (rows < n) & (cols < m) & (mass > least)
        rows, cols, mass = rows[keep], cols[keep], mass[keep]
        if not abs(float(mass.sum()) - self.fraction) <= 1e-6:  # a start, perhaps without any pair
            reason = f"partial transport stopped at its bound of {bound} pivots"
            return replace(Exact()(source, target), converged=False, fallback=reason)
        excess = [
            (torch.zeros_like(asked).index_add_(0, index, mass) - asked).clamp(min=0.0).sum()
            for index, asked in ((rows, a), (cols, b))
        ]
        mass = mass / mass.sum()
        return PairPlan(
            rows=rows,
            cols=cols,
            mass=mass,
            size=(n, m),
            cost=float(torch.dot(mass, cost[rows, cols])),
            converged=converged,
            marginal_error=float(torch.stack(excess).max()),
            unmatched=left,
        )

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Partial:
        return cls(0.75)


def _with_rest(mass: Tensor, rest: float) -> Tensor:
    """Return masses with one more, of what the other side leaves out, scaled to total one."""
    out = torch.cat([mass, mass.new_tensor([rest])])
    return out / out.sum()


def _with_dummies(cost: Tensor) -> Tensor:
    """Return the cost with one more cell on each side: free, except for each other."""
    out = cost.new_zeros(cost.shape[0] + 1, cost.shape[1] + 1)
    out[:-1, :-1] = cost
    # Any positive cost will do: to pair them only makes more cells travel.
    out[-1, -1] = float(cost.max()) or 1.0
    return out
