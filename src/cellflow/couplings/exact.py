"""Exact optimal transport for the half squared distance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.couplings._pair import centred, l1_error, pair_cost
from cellflow.couplings.assignment import assign
from cellflow.couplings.plans import PairPlan
from cellflow.timecourse import Snapshot


@dataclass(frozen=True)
class Exact:
    r"""Optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`."""

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        """Couple two snapshots."""
        x, y = centred(source, target)
        n, m = len(x), len(y)
        a, b = source.weights, target.weights
        cost = half_squared_distance(x, y)
        if n == m and source.is_uniform and target.is_uniform:
            cols = torch.as_tensor(assign(cost.cpu().numpy()), device=x.device)
            rows = torch.arange(n, device=x.device)
            mass, converged = x.new_full((n,), 1.0 / n), True
        else:
            rows, cols, mass, converged = _network_simplex(a, b, cost)
        plan = PairPlan(
            rows=rows, cols=cols, mass=mass, size=(n, m),
            cost=pair_cost(x, y, rows=rows, cols=cols, mass=mass), converged=converged,
        )
        error = l1_error((plan.row_mass, plan.col_mass), (a, b))
        object.__setattr__(plan, "marginal_error", error)
        return plan


def _network_simplex(a: Tensor, b: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    import ot

    args = [t.cpu().numpy() for t in (a, b, cost)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix, log = ot.emd(*args, numItermax=10_000_000, log=True)
    rows, cols = np.nonzero(matrix)
    parts = [torch.as_tensor(p, device=cost.device) for p in (rows, cols, matrix[rows, cols])]
    return *parts, log["result_code"] == 1
