"""Plans between cells of any masses, by way of pieces of equal mass.

The cells of a snapshot are put in line along a tree, so that neighbours in line are neighbours in
space, and their cumulated mass is cut into equal *pieces*: part of a cell, or a few neighbours
together. Pieces are matched one to one, and each pair of pieces becomes the pairs of cells that
are in it, so that masses are respected exactly. What that costs more than it has to, sweeps of
exact transport between small blocks of these pairs take away.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from cellflow.transport.clouds.matching import CHUNK, Both, Run, tree

#: What is rounding: a share of a cell below this part of a piece, and this fall of a block's cost.
SMALLEST_SHARE, ROUNDING = 1e-9, 1e-12


class Pieces(NamedTuple):
    """Cells in `k` pieces of equal mass: the cell and the mass of each part of a piece.

    Parts of one piece stand together; `starts` ``(k + 1,)`` are the first ones. The total mass is
    one.
    """

    starts: np.ndarray
    cells: np.ndarray
    mass: np.ndarray

    def centres(self, x: np.ndarray) -> np.ndarray:
        """Mean of the cells ``x (n, d)`` in each piece, float32 of shape ``(k, d)``."""
        count = len(self.starts) - 1
        owner = np.repeat(np.arange(count), np.diff(self.starts))
        share = self.mass / np.bincount(owner, self.mass)[owner]
        out = np.empty((count, x.shape[1]), np.float32)
        for k in range(x.shape[1]):
            out[:, k] = np.bincount(owner, share * x[self.cells, k], count)
        return out

    def mean(self, value: np.ndarray, n: int) -> np.ndarray:
        """Mean, over the parts of each of `n` cells, of a `value` of each piece."""
        owner = np.repeat(np.arange(len(value)), np.diff(self.starts))
        total = np.bincount(self.cells, self.mass * value[owner], n)
        return total / np.bincount(self.cells, self.mass, n)


class Entries(NamedTuple):
    """Rows, columns and masses of the entries of a plan."""

    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray


def cut(x: np.ndarray, weights: np.ndarray | None, count: int, *, run: Run) -> Pieces:
    """Cut cells ``x (n, d)`` of these weights (None: equal ones) into `count` equal pieces."""
    n, d = x.shape
    nothing, none = np.zeros((1, d), np.float32), np.zeros(n, np.int64)
    root = torch.eye(d, dtype=torch.float64)
    order, _ = tree((x, nothing), (np.arange(n), none), leaves=n, root=root, run=run)
    # Ends in units of a piece. Sums of many small numbers: in as many digits as there are.
    if weights is None:
        ends = np.arange(1, n + 1, dtype=np.longdouble) * count / n
    else:
        ends = weights[order].astype(np.longdouble).cumsum()
        ends *= count / ends[-1]
    whole = np.rint(ends)
    ends = np.where(abs(ends - whole) < SMALLEST_SHARE, whole, ends)
    ends[-1] = count
    levels = np.union1d(ends, np.arange(1, count + 1, dtype=np.longdouble))
    lows = np.concatenate([np.zeros(1, np.longdouble), levels[:-1]])
    cells = order[np.searchsorted(ends, lows, "right")]
    starts = np.concatenate([[0], np.searchsorted(levels, np.arange(1, count + 1)) + 1])
    return Pieces(starts, cells, ((levels - lows) / count).astype(np.float64))


def joined(left: Pieces, right: Pieces, cols: np.ndarray) -> Entries:
    """Return the pairs of cells when piece k of `left` is matched with ``cols[k]`` of `right`.

    Inside a pair of pieces, parts meet in their order, which makes one pair less than there are
    parts.
    """
    count = len(cols)
    sizes = np.diff(right.starts)[cols]
    first = np.cumsum(sizes) - sizes
    index = np.arange(sizes.sum()) - np.repeat(first - right.starts[cols], sizes)
    owners = [np.repeat(np.arange(count), np.diff(left.starts)), np.repeat(np.arange(count), sizes)]
    ends = []
    for owner, mass in zip(owners, (left.mass, right.mass[index]), strict=True):
        total = mass.astype(np.longdouble).cumsum()
        last = np.flatnonzero(np.diff(owner, append=count))
        base = np.concatenate([np.zeros(1, np.longdouble), total[last[:-1]]])
        level = owner + (total - base[owner]) * count
        level[last] = owner[last] + 1  # exactly where the next one starts
        ends.append(level)
    levels = np.union1d(*ends)
    lows = np.concatenate([np.zeros(1, np.longdouble), levels[:-1]])
    mass = ((levels - lows) / count).astype(np.float64)
    rows = left.cells[np.searchsorted(ends[0], lows, "right")]
    partners = right.cells[index[np.searchsorted(ends[1], lows, "right")]]
    kept = mass > 1e-6 * SMALLEST_SHARE / count
    return merged(Entries(rows[kept], partners[kept], mass[kept]))


def merged(pairs: Entries) -> Entries:
    """Put equal pairs together; in the order of rows and columns."""
    m = int(pairs.cols.max()) + 1
    keys, index = np.unique(pairs.rows * m + pairs.cols, return_inverse=True)
    rows, cols = np.divmod(keys, m)
    return Entries(rows, cols, np.bincount(index, pairs.mass))


def transport(
    points: Both, pairs: Entries, price: np.ndarray, *, blocks: Both
) -> tuple[Entries, float]:
    """Solve transport inside blocks (their order and starts); return pairs, and what it gained.

    `price` of the columns, for the cost ``-x . y``, follows the duals of the blocks in place.
    """
    order, starts = blocks
    out, gained = [], 0.0
    for low, high in pairwise(starts):
        index = order[low:high]
        block = Entries(pairs.rows[index], pairs.cols[index], pairs.mass[index])
        solved, gain = _solve(points, block, price) if high - low > 1 else (block, 0.0)
        gained += gain
        out.append(solved)
    return merged(Entries(*(np.concatenate([part[k] for part in out]) for k in range(3)))), gained


def _solve(points: Both, block: Entries, price: np.ndarray) -> tuple[Entries, float]:
    """Return the optimal plan between the rows and columns of a block, and what it gains."""
    import ot

    x, y = points
    rows, i = np.unique(block.rows, return_inverse=True)
    cols, j = np.unique(block.cols, return_inverse=True)
    total = block.mass.sum()
    a, b = np.bincount(i, block.mass) / total, np.bincount(j, block.mass) / total
    left, right = x[rows].astype(np.float64), y[cols].astype(np.float64)
    middle = left.mean(0)
    cost = (left - middle) @ (right.mean(0) - right).T
    cost -= cost.min()  # the tolerances of the solver are absolute ones
    scale = cost.max() or 1.0
    plan, log = ot.emd(a, b / b.sum() * a.sum(), cost / scale, log=True)
    old = float(block.mass @ cost[i, j])
    new = total * float((plan * cost).sum())
    if log["warning"] is not None or not new < old - ROUNDING * total * scale:
        return block, 0.0
    duals = scale * log["v"] - right @ middle  # of the cost without that shift of the rows
    duals += np.average(price[cols] - duals, weights=b)
    price[cols] = duals
    i, j = np.nonzero(plan > SMALLEST_SHARE**2)
    return Entries(rows[i], cols[j], total * plan[i, j]), old - new


def cost_of(points: Both, pairs: Entries) -> float:
    """Sum of the masses times half the squared distances."""
    x, y = points
    total = 0.0
    for k in range(0, len(pairs.mass), CHUNK):
        now = slice(k, k + CHUNK)
        gap = (x[pairs.rows[now]] - y[pairs.cols[now]]).astype(np.float64)
        total += 0.5 * float(pairs.mass[now] @ np.square(gap).sum(1))
    return total
