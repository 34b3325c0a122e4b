"""Transport with a whole cost matrix, by POT's network simplex, certified by its duals."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np


class Flow(NamedTuple):
    """A plan as its entries, with its cost and its certificate.

    `gap` is the distance of the cost from the value of the duals, `violation` the largest amount
    by which a pair of duals `u` and `v` exceeds its cost. `complete` says that the solver ended by
    itself, not at its bound.
    """

    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    u: np.ndarray
    v: np.ndarray
    cost: float
    gap: float
    violation: float
    complete: bool


def solve_matrix(cost: np.ndarray, a: np.ndarray, b: np.ndarray, *, max_pivots: int) -> Flow:
    """Solve transport between masses `a` ``(n,)`` and `b` ``(m,)``; `cost` is overwritten."""
    import ot

    # The solver's tolerances are absolute ones: divided by a power of two, costs keep every digit.
    scale = math.ldexp(1.0, math.frexp(float(cost.max()))[1] - 1)
    cost /= scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status is read below
        plan, log = ot.emd(a, b, cost, numItermax=max_pivots, log=True)
    rows, cols = np.nonzero(plan)
    mass = plan[rows, cols]
    primal = float(mass @ cost[rows, cols])
    u, v = log["u"], log["v"]
    gap = abs(primal - float(a @ u + b @ v))
    cost -= u[:, None]
    cost -= v[None, :]
    violation = max(0.0, -float(cost.min()))
    complete = log["result_code"] == 1 and log["warning"] is None
    told = scale * primal, scale * gap, scale * violation, complete
    return Flow(rows, cols, mass, scale * u, scale * v, *told)
