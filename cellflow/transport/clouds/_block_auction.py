"""Compiled kernels of the sweeps over blocks of pairs. Import this module lazily: it loads numba.

Notation: pair q joins row ``rows[q]`` of `x` to row ``cols[q]`` of `y`, both float32. With
``c[i, j] = -x_i . y_j``, which differs from the half squared distance by a term of the row and one
of the column, prices ``v`` of the columns are only compared with each other: row i is *content*
when its column has the least ``c[i, j] - v[j]``. Nothing depends on the number of threads.
"""

from functools import partial

import numpy as np

from cellflow._numba import compiled
from cellflow.transport.assignment._auction import BLOCK, _best_two

#: Bids per pair after which the auction of a block is given up, and its pairs are kept.
BIDS = 40
#: Part of the change of its prices that a block keeps: prices that other blocks have to live with,
#: too, are better bounds and no worse starts.
DAMPING = np.float32(0.5)
# Sums are never reordered, and products never fused: freshly compiled code and that of the cache
# would do so differently, and one last digit changes all pairs.
_strict = partial(compiled, math=frozenset({"nnan", "nsz"}))


@_strict
def tags(x, weights, out):
    """Set ``out[i]`` to the sum of ``x[i] * weights``, in one order of summation for all rows."""
    for i in range(len(x)):
        total = 0.0
        for k in range(x.shape[1]):
            total += x[i, k] * weights[k]
        out[i] = total


@_strict
def project(x, y, rows, cols, ways, out, low, high):
    """Set ``out[l, q]`` to ``(x_i + y_j) . ways[:, l]`` for the pairs q from `low` to `high`."""
    d, count = ways.shape
    total = np.empty(count, np.float32)
    for q in range(low, high):
        i, j = rows[q], cols[q]
        total[:] = 0.0
        for k in range(d):
            both = x[i, k] + y[j, k]
            for way in range(count):
                total[way] += both * ways[k, way]
        for way in range(count):
            out[way, q] = total[way]


@_strict
def _split(key, order, low, high, at):
    """Reorder ``order[low:high]`` so that no key before position `at` is above one after it."""
    low, high = low, high - 1
    while low < high:
        a, b, c = key[order[low]], key[order[(low + high) // 2]], key[order[high]]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while key[order[i]] < pivot:
                i += 1
            while key[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if at <= j:
            high = j
        elif at >= i:
            low = i
        else:
            return


@_strict
def cut(key, order, starts, leaves):
    """Cut each segment of `order` in two by its keys, unless it is to be a single leaf.

    Segment b starts at ``starts[b]`` and is to have ``leaves[b]`` leaves of equal size. Return the
    starts and leaves of the segments after the cut.
    """
    n = len(leaves)
    ends, shares = np.empty(2 * n + 1, np.int64), np.empty(2 * n, np.int64)
    count = 0
    for b in range(n):
        low, high = starts[b], starts[b + 1]
        first = leaves[b] // 2
        if first > 0:
            middle = low + (high - low) * first // leaves[b]
            if low < middle < high:
                _split(key, order, low, high, middle)
            ends[count], shares[count] = low, first
            count += 1
            low = middle
        ends[count], shares[count] = low, leaves[b] - first
        count += 1
    ends[count] = starts[n]
    return ends[: count + 1], shares[:count]


@_strict
def _gather(x, y, index, pairs, price, left, right, v):
    """Copy the points of some pairs, each cloud about its own mean, and their prices with them."""
    rows, cols = pairs
    n, d = len(index), x.shape[1]
    middle_x, middle_y = np.zeros(d), np.zeros(d)
    for q in range(n):
        for k in range(d):
            middle_x[k] += x[rows[index[q]], k] / n
            middle_y[k] += y[cols[index[q]], k] / n
    right[:] = 0.0
    v[:] = 0.0
    mean = 0.0
    for q in range(n):
        i, j = rows[index[q]], cols[index[q]]
        # Moving the rows by their mean adds to a column what its price has to follow.
        moved = np.float64(price[j])
        for k in range(d):
            left[q, k] = x[i, k] - middle_x[k]
            right[k, q] = y[j, k] - middle_y[k]
            moved += middle_x[k] * (y[j, k] - middle_y[k])
        v[q] = moved
        mean += moved / n
    for q in range(n):
        v[q] -= mean


@_strict
def _scores(left, right, c):
    """Fill `c` with minus the products of rows; columns that pad it become infinite."""
    n, d = left.shape
    width = c.shape[1]
    c[:] = 0.0
    for i in range(n):
        out = c[i]
        for k in range(0, d - 3, 4):
            p, q, r, s = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            a, b, e, f = right[k], right[k + 1], right[k + 2], right[k + 3]
            for j in range(width):
                out[j] -= p * a[j] + q * b[j] + r * e[j] + s * f[j]
        for k in range(d - d % 4, d):
            p, a = left[i, k], right[k]
            for j in range(width):
                out[j] -= p * a[j]
    c[:, n:] = np.inf


@_strict
def _least(c, v, out, row):
    """Set ``out[i]`` to the least reduced cost of row i; return their mean."""
    mean = 0.0
    for i in range(len(out)):
        width, costs = c.shape[1], c[i]
        for j in range(width):
            row[j] = costs[j] - v[j]
        while width > BLOCK:  # by halves, which the compiler turns into vector operations
            half = width // 2
            for j in range(half):
                row[j] = min(row[j], row[j + half])
            if width % 2:
                row[0] = min(row[0], row[width - 1])
            width = half
        least = row[0]
        for j in range(1, width):
            least = min(least, row[j])
        out[i] = least
        mean += least / len(out)
    return mean


@_strict
def _release(c, v, limit, owner, col, stack):
    """Free the rows that pay more than their `limit`, and list them; return how many."""
    top = 0
    for i in range(len(col)):
        if c[i, col[i]] - v[col[i]] > limit[i]:
            owner[col[i]] = -1
            stack[top] = i
            top += 1
    return top


@_strict
def _bid(c, v, increment, owner, col, stack, top):
    """Let the listed rows bid until all are assigned; return False if it took too long."""
    for _ in range(BIDS * len(col)):
        if top == 0:
            return True
        i = stack[top - 1]
        j, first, second = _best_two(c, v, i)
        v[j] -= (second - first) + increment
        if owner[j] < 0:
            top -= 1
        else:
            stack[top - 1] = owner[j]
        owner[j], col[i] = i, j
    return top == 0


@_strict
def reassign(points, pairs, price, blocks, increments, part, gain):
    """Reassign the columns inside each block of a `part` (low, high), where that costs less.

    A block starts from its present pairs and prices, so that near the optimum few rows bid. Its
    prices keep their mean. ``gain[b]`` becomes what the cost of block b falls by.
    """
    (x, y), (_, cols), (order, starts), (low, high) = points, pairs, blocks, part
    size = 0
    for b in range(low, high):
        size = max(size, starts[b + 1] - starts[b])
    width = -(-size // BLOCK) * BLOCK
    costs, left = np.empty((size, width), np.float32), np.empty((size, x.shape[1]), np.float32)
    others = np.empty((x.shape[1], width), np.float32)
    before, v = np.empty(width, np.float32), np.empty(width, np.float32)
    owner, col = np.empty(width, np.int64), np.empty(size, np.int64)
    stack, taken = np.empty(size, np.int64), np.empty(size, np.int64)
    least, row = np.empty(size, np.float32), np.empty(width, np.float32)
    for b in range(low, high):
        gain[b] = 0.0
        index = order[starts[b] : starts[b + 1]]
        n = len(index)
        if n < 2:
            continue
        wide = -(-n // BLOCK) * BLOCK
        # Contiguous, which the compiler can only know of arrays of one block's own size.
        c = costs.ravel()[: n * wide].reshape(n, wide)
        right = others.ravel()[: len(others) * wide].reshape(len(others), wide)
        _gather(x, y, index, pairs, price, left[:n], right, before[:wide])
        _scores(left[:n], right, c)
        v[:wide] = before[:wide]
        # How far the least cost is below the mean one, which is 0: all are about their means.
        scale = -_least(c, v, least[:n], row)
        if not scale > 0.0:
            continue
        old, new, shift = 0.0, 0.0, 0.0
        owner[:wide] = -1
        for q in range(n):
            old += c[q, q]
            owner[q], col[q] = q, q
        done = True
        for k in range(len(increments)):
            if k > 0:
                _least(c, v, least[:n], row)
            e = np.float32(increments[k] * scale)
            top = _release(c, v, least[:n] + e, owner, col[:n], stack)
            if not _bid(c, v, e, owner, col[:n], stack, top):
                done = False
                break
        for q in range(n):
            new += c[q, col[q]]
            shift += (v[q] - before[q]) / n
        if not done or not new < old:
            continue
        gain[b] = old - new
        for q in range(n):
            price[cols[index[q]]] += DAMPING * (v[q] - before[q] - np.float32(shift))
            taken[q] = cols[index[col[q]]]
        for q in range(n):
            cols[index[q]] = taken[q]


@_strict
def transform(x, y, price, rows, out):
    """Set ``out[k]`` to the least of ``-x_i . y_j - price[j]`` over all j, for i = ``rows[k]``.

    In float64, in tiles that stay in the cache.
    """
    d, width = y.shape[1], 16 * BLOCK
    tile, row = np.empty((d, width)), np.empty(width)
    out[:] = np.inf
    for start in range(0, len(y), width):
        n = min(width, len(y) - start)
        for j in range(n):
            for k in range(d):
                tile[k, j] = y[start + j, k]
        for q in range(len(rows)):
            for j in range(n):
                row[j] = -price[start + j]
            for k in range(d):
                state, other = np.float64(x[rows[q], k]), tile[k]
                for j in range(n):
                    row[j] -= state * other[j]
            least = out[q]
            for j in range(n):
                least = min(least, row[j])
            out[q] = least
