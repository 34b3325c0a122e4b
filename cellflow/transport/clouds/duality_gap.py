"""A lower bound on the cost of transport, from the prices that a plan was found with.

By weak duality no coupling costs less than ``sum a_i u_i + sum b_j v_j``, whatever the prices v,
when ``u_i`` is the least ``c_ij - v_j``. The gap to the plan's cost is the mean over its pairs of
``c_ij - v_j - u_i``, which are never negative. For small problems all rows are looked at, and the
prices themselves are improved; for large ones a sample of rows, for which three standard errors
are added to the gap.
"""

from __future__ import annotations

import numpy as np
import torch

from cellflow._random import stratified
from cellflow.transport.clouds.equal_mass_pieces import Entries
from cellflow.transport.clouds.matching import CHUNK, Both, Run

#: Costs that are looked at in full; rows in a sample, and standard errors added to its gap.
FULL, ROWS, ERRORS = 2**26, 512, 3.0


def duality_gap(
    points: Both, pairs: Entries, masses: Both, *, price: np.ndarray, run: Run
) -> float:
    """Bound what the cost of a plan is above the least possible one, in O(2²⁶ d + m d) time."""
    (x, y), (a, b) = points, masses
    kept = np.empty(len(pairs.mass))
    for k in range(0, len(kept), CHUNK):
        now = slice(k, k + CHUNK)
        kept[now] = (x[pairs.rows[now]].astype(np.float64) * y[pairs.cols[now]]).sum(1)
    slack = -kept - price[pairs.cols]
    mean = np.bincount(pairs.rows, pairs.mass * slack) / np.bincount(pairs.rows, pairs.mass)
    everything = np.arange(len(x)), np.arange(len(y))
    if len(x) * len(y) <= FULL:
        v = _least((y, x), mean, everything[1], run)
        u = _least((x, y), v, everything[0], run)
        return max(0.0, float(-(pairs.mass @ kept) - a @ u - b @ v))
    rows = stratified(torch.from_numpy(a).cumsum(0), ROWS, run.generator).numpy()
    gaps = mean[rows] - _least((x, y), price.astype(np.float64), rows, run)
    return max(0.0, float(gaps.mean() + ERRORS * gaps.std() / len(rows) ** 0.5))


def _least(points: Both, price: np.ndarray, rows: np.ndarray, run: Run) -> np.ndarray:
    """Return the least ``-x_i . y_j - price_j`` over j, of some rows i."""
    from cellflow.transport.clouds import _block_auction

    out = np.empty(len(rows))

    def work(low: int, high: int) -> None:
        _block_auction.transform(*points, price, rows[low:high], out[low:high])

    run(work, len(rows))
    return out
