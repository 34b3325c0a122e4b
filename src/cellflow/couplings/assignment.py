"""One-to-one assignment of least cost."""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> np.ndarray:
    """Return the column of each row."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]


def assign_blocks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the partner of each cell, for blocks (B, n, d)."""
    out = []
    for p, q in zip(x.astype(float), y.astype(float), strict=True):
        out.append(assign(0.5 * ((p[:, None] - q[None]) ** 2).sum(-1)))
    return np.stack(out)
