"""Sums of outer products of sparse rows. Import this module lazily: it loads numba."""

from __future__ import annotations

from functools import partial

import numpy as np

from cellflow._numba import compiled


@partial(compiled, math=False)
def add_sparse(gram: np.ndarray, values: np.ndarray, columns: np.ndarray, ends: np.ndarray) -> None:
    """Add the outer product of each row with itself to the upper triangle of `gram` ``(g, g)``.

    Rows are those of a CSR matrix (its data, indices and index pointer), columns sorted. A row of
    k entries costs k²/2 additions, where a dense one would cost g²/2.
    """
    for row in range(len(ends) - 1):
        for p in range(ends[row], ends[row + 1]):
            value, into = np.float64(values[p]), gram[columns[p]]
            for q in range(p, ends[row + 1]):
                into[columns[q]] += value * values[q]
