"""The independent coupling: every source cell with every target cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow.couplings.coupling import COUPLINGS, Coupling, centred
from cellflow.plans.forms import ProductPlan
from cellflow.timecourse import Snapshot


@COUPLINGS.register("independent")
@dataclass(frozen=True)
class Independent(Coupling):
    """Pair cells at random, in proportion to their masses: the plan ``a ⊗ b``.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> plan = Independent()(Snapshot(torch.zeros(3, 2), 0.0), Snapshot(torch.ones(4, 2), 1.0))
    >>> plan.shape, round(plan.partners, 6), plan.cost
    ((3, 4), 4.0, 1.0)
    """

    def __call__(self, source: Snapshot, target: Snapshot) -> ProductPlan:
        x, y = centred(source, target)
        a, b = source.weights, target.weights
        second = torch.dot(a, (x * x).sum(1)) + torch.dot(b, (y * y).sum(1))
        cost = 0.5 * float(second) - float(torch.dot(a @ x, b @ y))
        return ProductPlan(a=a, b=b, cost=max(cost, 0.0))
