"""Compiled kernels of the assignment solver. Import this module lazily: it loads numba.

Notation: prices ``v`` of the columns are only ever lowered, ``c[i, j] - v[j]`` is the reduced
cost that row i pays for column j, and a row is *content* when its column has the least of these.
Cost matrices are padded with infinite columns to a multiple of `BLOCK`.
"""

import numpy as np

from cellflow._numba import compiled

#: Columns that are scanned at once: a constant trip count lets the compiler use vector registers.
BLOCK = 32
#: First and last bid increment of the auction, in units of the mean reduced cost, and the ratio
#: of consecutive ones. Measured: a finer end costs less than the repair that it saves.
FIRST, LAST, RATIO = 0.25, 2e-4, 8
#: Costs in the auction are whole numbers: so many units are its last increment, the largest cost
#: is at most so many units, and nothing is as far as this.
UNITS, MOST, FAR = 4, 2**26, 2**31 - 1
#: Bids per row after which an auction round, or the exact round, hands over to the next stage.
AUCTION_BIDS, EXACT_BIDS = 60, 5


@compiled
def _best_two(c, v, i):
    """Return the best column of row `i`, its reduced cost, and the second least reduced cost."""
    first = c.dtype.type(np.inf)
    second = first
    at = 0
    for block in range(c.shape[1] // BLOCK):
        low = block * BLOCK
        least = c[i, low] - v[low]
        for j in range(low, low + BLOCK):
            least = min(least, c[i, j] - v[j])
        if least < first:
            second = first
            first = least
            at = low
        elif least < second:
            second = least
    best = -1
    for j in range(at, at + BLOCK):
        value = c[i, j] - v[j]
        if best < 0 and value <= first:
            best = j
        elif value < second:
            second = value
    return best, first, second


@compiled
def _best_two_whole(c, v):
    """Return what :func:`_best_two` does, for one row `c` of whole numbers.

    Three passes, since the compiler turns each of them into vector instructions: least values of
    floats, and of pairs of values, it does not.
    """
    first = np.int32(FAR)
    for j in range(len(c)):
        first = min(first, np.int32(c[j] - v[j]))
    best = np.int32(FAR)
    for j in range(len(c)):
        best = min(best, np.int32(j) if np.int32(c[j] - v[j]) == first else np.int32(FAR))
    second = np.int32(FAR)
    for j in range(len(c)):
        value = np.int32(c[j] - v[j])
        second = min(second, value if np.int32(j) != best else np.int32(FAR))
    return best, first, second


@compiled
def _auction(c, v, increment, owner, stack):
    """Assign all rows within `increment` of contentment; return False if it took too long."""
    n = len(stack)
    owner[:] = -1
    for k in range(n):
        stack[k] = n - 1 - k
    top = n
    for _ in range(AUCTION_BIDS * n):
        i = stack[top - 1]
        j, first, second = _best_two_whole(c[i], v)
        v[j] -= np.int32(second - first + increment)
        if v[j] < -FAR // 4:  # out of range: the next stage goes on from here
            return False
        if owner[j] < 0:
            top -= 1
        else:
            stack[top - 1] = owner[j]
        owner[j] = i
        if top == 0:
            return True
    return False


@compiled
def _exact_bids(c, v, owner, col, free):
    """Bid without increment, so that every assigned row is content; return the rows left over."""
    n = len(col)
    owner[:] = -1
    left = 0
    bids = EXACT_BIDS * n
    for start in range(n):
        i = start
        while i >= 0:
            bids -= 1
            j, first, second = _best_two(c, v, i)
            loser = owner[j]
            if loser >= 0 and (second <= first or bids < 0):
                free[left] = i
                left += 1
                break
            v[j] -= second - first
            owner[j] = i
            col[i] = j
            i = loser
    return left


@compiled
def _augment(c, v, owner, col, start, distance, previous, order):
    """Assign row `start` along a shortest augmenting path, keeping all rows content."""
    n = len(col)
    for j in range(n):
        distance[j] = c[start, j] - v[j]
        previous[j] = start
        order[j] = j
    open_ = n
    while True:
        at, least = 0, distance[order[0]]
        for q in range(1, open_):
            value = distance[order[q]]
            if value < least or (value == least and owner[order[q]] < 0):
                at, least = q, value
        j = order[at]
        if owner[j] < 0:
            break
        open_ -= 1
        order[at] = order[open_]
        order[open_] = j
        i = owner[j]
        shift = c[i, j] - v[j] - least
        for q in range(open_):
            k = order[q]
            value = c[i, k] - v[k] - shift
            if value < distance[k]:
                distance[k] = value
                previous[k] = i
    for q in range(open_, n):
        v[order[q]] += distance[order[q]] - least
    while True:
        i = previous[j]
        owner[j] = i
        j, col[i] = col[i], j
        if i == start:
            return


@compiled
def _starting_prices(c, n, u, v):
    """Set row minima `u` and column minima `v` of what is left; return its mean and maximum."""
    v[:n] = np.inf
    for i in range(n):
        least = c[i, 0]
        for j in range(n):
            least = min(least, c[i, j])
        u[i] = least
        for j in range(n):
            v[j] = min(v[j], c[i, j] - least)
    mean, top = 0.0, 0.0
    for i in range(n):
        row = 0.0
        for j in range(n):
            value = c[i, j] - u[i] - v[j]
            row += value
            top = max(top, value)
        mean += row / n / n
    return mean, top


@compiled
def solve(c, n):
    """Solve the assignment of the padded ``(n, w)`` float64 matrix; return col, u, v."""
    width = c.shape[1]
    u, v, col = np.empty(n), np.empty(width), np.empty(n, np.int64)
    v[:] = 0.0
    for i in range(n):
        col[i] = i
    mean, top = _starting_prices(c, n, u, v)
    if n == 1 or not top > 0.0:  # nothing to choose between
        return col, u, v[:n]
    owner = np.empty(width, np.int64)
    free = np.empty(n, np.int64)
    unit = max(LAST * mean / UNITS, top / MOST)
    whole, price = np.empty((n, width), np.int32), np.empty(width, np.int32)
    whole[:] = FAR // 2
    price[:] = 0
    for i in range(n):
        for j in range(n):
            whole[i, j] = np.int32((c[i, j] - u[i] - v[j]) / unit)
    last = max(int(LAST * mean / unit), 1)
    increment = max(int(FIRST * mean / unit), last)
    while _auction(whole, price, increment, owner, free) and increment > last:
        increment = max(increment // RATIO, last)
    for j in range(n):
        v[j] += unit * price[j]
    left = _exact_bids(c, v, owner, col, free)
    distance = np.empty(n)
    previous, order = np.empty(n, np.int64), np.empty(n, np.int64)
    for q in range(left):
        _augment(c, v, owner, col, free[q], distance, previous, order)
    for i in range(n):
        u[i] = c[i, col[i]] - v[col[i]]
    return col, u, v[:n]


@compiled
def half_squared(x, y, out):
    """Fill the first n columns of `out` with ``½|x_i − y_j|²``, for ``y`` of shape ``(d, n)``."""
    n, d = x.shape
    out[:, n:] = np.inf
    for i in range(n):
        row = out[i, :n]
        row[:] = 0.0
        for k in range(d):
            state = x[i, k]
            other = y[k]
            for j in range(n):
                gap = state - other[j]
                row[j] += 0.5 * gap * gap


@compiled
def solve_blocks(x, y, out, duals):
    """Assign each block of ``x (B, n, d)`` to the same block of ``y (B, d, n)``, into `out`.

    The duals of rows and columns go into `duals` ``(B, 2, n)``.
    """
    blocks, n, _ = x.shape
    c = np.empty((n, -(-n // BLOCK) * BLOCK))
    for b in range(blocks):
        half_squared(x[b], y[b], c)
        col, u, v = solve(c, n)
        for i in range(n):
            out[b, i] = col[i]
            duals[b, 0, i], duals[b, 1, i] = u[i], v[i]
