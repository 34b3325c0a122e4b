"""Candidate arcs of a transport problem. Import this module lazily: it loads numba.

All work on a *tile*, some rows of the cost matrix (rounded, if in float32) against all columns;
``first`` is the row at which it begins. Reduced costs are ``c[i, j] - u[i] - v[j]``.
"""

import numpy as np

from cellflow._numba import compiled

#: Columns looked at together: most such runs hold nothing of interest, and are seen to at once.
RUN = 32


@compiled
def _insert(values, items, value, item):
    """Put an item into a list sorted by value, whose last one falls off."""
    q = len(values) - 1
    while q > 0 and values[q - 1] > value:
        values[q] = values[q - 1]
        items[q] = items[q - 1]
        q -= 1
    values[q] = value
    items[q] = item


@compiled
def nearest(tile, first, u, v, of_row, of_col, worst):
    """Collect the columns of least reduced cost of each row in `of_row`, and the converse.

    `of_row` ``(n, k)`` is set for the rows of the tile, `of_col` ``(m, k)`` and its reduced costs
    `worst` ``(k, m)`` are kept up to date from tile to tile.
    """
    m, k = tile.shape[1], of_row.shape[1]
    bound = worst[k - 1]
    runs = -(-m // RUN)
    low = np.empty(runs, tile.dtype)
    values = np.empty(k, tile.dtype)
    column = np.empty(k, tile.dtype)
    for r in range(tile.shape[0]):
        c, i = tile[r], first + r
        values[:] = np.inf
        for b in range(runs):
            start, stop = b * RUN, min(b * RUN + RUN, m)
            least = c[start] - v[start]
            spare = c[start] - bound[start]
            for j in range(start, stop):
                least = min(least, c[j] - v[j])
                spare = min(spare, c[j] - bound[j])
            low[b] = least
            if spare < u[i]:
                for j in range(start, stop):
                    if c[j] - bound[j] < u[i]:
                        column[:] = worst[:, j]
                        _insert(column, of_col[j], c[j] - u[i], i)
                        worst[:, j] = column
        limit = np.partition(low, k - 1)[k - 1] if runs >= k else low.dtype.type(np.inf)
        for b in range(runs):
            if low[b] <= limit and low[b] < values[k - 1]:
                for j in range(b * RUN, min(b * RUN + RUN, m)):
                    if c[j] - v[j] < values[k - 1]:
                        _insert(values, of_row[i], c[j] - v[j], j)


@compiled
def merge(of_row, of_col):
    """Return row and column of every arc in either list, once each, by rows."""
    n, m, k = len(of_row), len(of_col), of_row.shape[1]
    extra = np.zeros(n + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            rows = np.empty(n * k + extra.sum(), np.int32)
            cols = np.empty(len(rows), np.int32)
            place = np.zeros(n, np.int64)
            total = 0
            for i in range(n):
                for q in range(k):
                    rows[total + q], cols[total + q] = i, of_row[i, q]
                place[i] = total + k
                total += k + extra[i]
        for j in range(m):
            for q in range(k):
                i = of_col[j, q]
                known = i < 0
                for p in range(k):
                    known |= of_row[i, p] == j
                if not known and turn == 0:
                    extra[i] += 1
                elif not known:
                    rows[place[i]], cols[place[i]] = i, j
                    place[i] += 1
    return rows, cols


@compiled
def true_cost(x, y, i, j, root):
    """Cost of one arc in float64, without the rounding of an expanded square."""
    total = 0.0
    for k in range(x.shape[1]):
        gap = x[i, k] - y[j, k]
        total += gap * gap
    return np.sqrt(total) if root else total


@compiled
def true_costs(x, y, rows, cols, root):
    """Costs of arcs in float64."""
    out = np.empty(len(rows))
    for e in range(len(rows)):
        out[e] = true_cost(x, y, rows[e], cols[e], root)
    return out


@compiled
def smooth(rows, cols, cost, a, b, u, v, epsilon):
    """Improve duals by one level of Sinkhorn's iterations on a sparse graph, in place."""
    n, m = len(a), len(b)
    top = np.full(n, -np.inf)
    for e in range(len(rows)):
        top[rows[e]] = max(top[rows[e]], v[cols[e]] - cost[e])
    kernel = np.empty(len(rows))
    for e in range(len(rows)):
        kernel[e] = np.exp(max((v[cols[e]] - cost[e] - top[rows[e]]) / epsilon, -50.0))
    left, right, sums = np.empty(n), np.ones(m), np.empty(m)
    for _ in range(10):
        left[:] = 1e-300
        for e in range(len(rows)):
            left[rows[e]] += kernel[e] * right[cols[e]]
        for i in range(n):
            left[i] = a[i] / left[i]
        sums[:] = 1e-300
        for e in range(len(rows)):
            sums[cols[e]] += kernel[e] * left[rows[e]]
        for j in range(m):
            # Columns out of reach of their mass must not run away: this is only a good guess.
            right[j] = min(max(b[j] / sums[j], 1e-9), 1e9)
    scale = a.mean()
    for i in range(n):
        u[i] = epsilon * min(max(np.log(left[i] / scale), -20.0), 20.0) - top[i]
    for j in range(m):
        v[j] += epsilon * min(max(np.log(right[j]), -5.0), 5.0)


@compiled
def violated(tile, first, clouds, duals, limits, low, arcs, worst_of):
    """Find arcs of negative reduced cost; return how many of `arcs` (rows, cols) were set.

    The tile only screens: within a margin of zero a cost is computed anew in float64, so that
    `low`, the least reduced cost of each row or zero, is reliable. Of each row the worst arcs
    beyond a tolerance are returned, as many as there is room for; the value and the row of the
    worst arc of each column are kept in `worst_of`.
    """
    (x, y, root), (u, v), (margin, tolerance) = clouds, duals, limits
    (rows, cols), (best, of_col) = arcs, worst_of
    m, most = tile.shape[1], len(rows) // tile.shape[0]
    found = 0
    rounded = v.astype(tile.dtype)
    worst, which = np.empty(most), np.empty(most, np.int64)
    for r in range(tile.shape[0]):
        c, i = tile[r], first + r
        limit = tile.dtype.type(u[i] + margin)
        worst[:] = -tolerance
        which[:] = -1
        for b in range(-(-m // RUN)):
            start, stop = b * RUN, min(b * RUN + RUN, m)
            least = c[start] - rounded[start]
            for j in range(start, stop):
                least = min(least, c[j] - rounded[j])
            if least <= limit:
                for j in range(start, stop):
                    if c[j] - rounded[j] <= limit:
                        value = true_cost(x, y, i, j, root) - u[i] - v[j]
                        low[i] = min(low[i], value)
                        if value < best[j]:
                            best[j], of_col[j] = value, i
                        if value < worst[most - 1]:
                            _insert(worst, which, value, j)
        for q in range(most):
            if which[q] >= 0:
                rows[found], cols[found] = i, which[q]
                found += 1
    return found
