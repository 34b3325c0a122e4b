"""Compiled linear algebra of Newton steps in entropic transport. Import lazily: it loads numba.

The systems are ``(diag(d) − Pᵀ diag(w) P) x = r``: the Hessian of the semi-dual.
"""

import numpy as np

from cellflow._numba import compiled

#: Ridge of a factored Hessian, relative to its diagonal: it only preconditions.
RIDGE = 1e-10


@compiled
def _apply(plan, weight, diagonal, x, out):
    """Fill `out` with the Hessian times `x`."""
    n, m = plan.shape
    out[:] = 0.0
    for i in range(n):
        row, total = plan[i], 0.0
        for j in range(m):
            total += row[j] * x[j]
        total *= weight[i]
        for j in range(m):
            out[j] += total * row[j]
    for j in range(m):
        out[j] = diagonal[j] * x[j] - out[j]


@compiled
def _precondition(diagonal, lower, r, out):
    """Fill `out` with ``r / diag``, or with the solution by the factor `lower` if there is one."""
    m = len(r)
    if len(lower) == 0:
        for j in range(m):
            out[j] = r[j] / diagonal[j]
        return
    for j in range(m):
        out[j] = r[j] / np.sqrt(diagonal[j])
    for k in range(m):
        row, value = lower[k], out[k]
        for j in range(k):
            value -= row[j] * out[j]
        out[k] = value / row[k]
    for k in range(m - 1, -1, -1):
        row = lower[k]
        value = out[k] / row[k]
        out[k] = value
        for j in range(k):
            out[j] -= value * row[j]
    for j in range(m):
        out[j] /= np.sqrt(diagonal[j])


@compiled
def conjugate(plan, weight, diagonal, r, lower, x, tolerance, limit):
    """Solve for `x` by conjugate gradients; return whether the residual fell by `tolerance`.

    Whatever it returns, `x` is a direction of ascent for `r`.
    """
    m = len(r)
    rest, z, p, q = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    product, start = 0.0, 0.0
    _precondition(diagonal, lower, r, z)
    for j in range(m):
        x[j], rest[j], p[j] = 0.0, r[j], z[j]
        product += r[j] * z[j]
        start += abs(r[j])
    for k in range(limit):
        _apply(plan, weight, diagonal, p, q)
        curved, size = 0.0, 0.0
        for j in range(m):
            curved += p[j] * q[j]
            size += p[j] * p[j] * diagonal[j]
        if not curved > 1e-15 * size:  # rounding, along what the Hessian does not see
            if k == 0:
                for j in range(m):
                    x[j] = p[j]
            return False
        step, left = product / curved, 0.0
        for j in range(m):
            x[j] += step * p[j]
            rest[j] -= step * q[j]
            left += abs(rest[j])
        if left <= tolerance * start:
            return True
        _precondition(diagonal, lower, rest, z)
        new = 0.0
        for j in range(m):
            new += rest[j] * z[j]
        ratio, product = new / product, new
        for j in range(m):
            p[j] = z[j] + ratio * p[j]
    return False


@compiled
def _gram(half, out):
    """Fill the lower triangle of `out` with ``halfᵀ half``, four rows at a time."""
    n, m = half.shape
    out[:] = 0.0
    for i in range(0, m - m % 4, 4):
        h0, h1, h2, h3 = out[i], out[i + 1], out[i + 2], out[i + 3]
        for r in range(n):
            row = half[r]
            a, b, c, d = row[i], row[i + 1], row[i + 2], row[i + 3]
            if a != 0.0 or b != 0.0 or c != 0.0 or d != 0.0:
                for j in range(i + 4):
                    x = row[j]
                    h0[j] += a * x
                    h1[j] += b * x
                    h2[j] += c * x
                    h3[j] += d * x
    for i in range(m - m % 4, m):
        for r in range(n):
            row, a = half[r], half[r, i]
            if a != 0.0:
                for j in range(i + 1):
                    out[i, j] += a * row[j]


@compiled
def factor(plan, weight, diagonal, mass, singular):
    """Return the Cholesky factor of the Hessian scaled to a unit diagonal, with a ridge.

    Where constants change nothing (`singular`), they are fixed by a matrix of rank one.
    """
    n, m = plan.shape
    root, half = np.empty(m), np.empty((n, m))
    for j in range(m):
        root[j] = 1.0 / np.sqrt(diagonal[j])
    for i in range(n):
        scale = np.sqrt(weight[i])
        for j in range(m):
            half[i, j] = plan[i, j] * scale * root[j]
    lower = np.empty((m, m))
    _gram(half, lower)
    for i in range(m):
        row = lower[i]
        for j in range(i + 1):
            row[j] = -row[j]
            if singular:
                row[j] += mass[i] * root[i] * mass[j] * root[j]
        row[i] += 1.0 + RIDGE
        for j in range(i):
            other, value = lower[j], row[j]
            for k in range(j):
                value -= row[k] * other[k]
            row[j] = value / other[j]
        value = row[i]
        for k in range(i):
            value -= row[k] * row[k]
        # A pivot lost to rounding: infinite, so that its unknown stays where it is.
        row[i] = np.sqrt(value) if value > 1e-13 else 1e100
    return lower
