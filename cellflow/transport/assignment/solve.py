r"""One-to-one assignment of least total cost, exact and fast.

An auction with decreasing bid increments (Bertsekas, 1988, "The auction algorithm: a distributed
relaxation method for the assignment problem") finds almost optimal prices in whole numbers. They
start an exact round in float64: bids without increment, then shortest augmenting paths for the rows
left over (Jonker and Volgenant, 1987, "A shortest augmenting path algorithm for dense and sparse
linear assignment problems"). The auction is only a good guess: whatever it does, the paths make the
result exact, and every stage is bounded. All of it runs without the interpreter lock.
"""

from __future__ import annotations

import numpy as np

from cellflow import _checks


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Assign each row of a finite square matrix of costs to one column, at least total cost.

    Returns the column of each row ``(n,)``, int64, and optimal duals `u` and `v`:
    :math:`u_i + v_j \le c_{ij}` up to rounding, with equality on assigned pairs.
    """
    if not np.isfinite(cost).all():
        raise ValueError(_checks.message("cost", "NaN or infinite values", "finite costs"))
    from cellflow.transport.assignment import _auction

    n = len(cost)
    padded = np.full((n, -(-n // _auction.BLOCK) * _auction.BLOCK), np.inf)
    padded[:, :n] = cost
    return _auction.solve(padded, n)


def assign_blocks(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign blocks of finite points ``(B, n, d)``, in one call without the interpreter lock.

    Returns the partner of each point inside its block ``(B, n)``, int64, and the duals of both
    sides ``(B, 2, n)``: their sum is the least total cost between clouds centred each on its mean.
    """
    from cellflow.transport.assignment import _auction

    x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    x = np.ascontiguousarray(x - x.mean(axis=1, keepdims=True))
    y = np.ascontiguousarray(np.swapaxes(y - y.mean(axis=1, keepdims=True), 1, 2))
    cols, duals = np.empty(x.shape[:2], np.int64), np.empty((len(x), 2, x.shape[1]))
    _auction.solve_blocks(x, y, cols, duals)
    return cols, duals
