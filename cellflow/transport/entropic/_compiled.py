"""Compiled kernels of entropic transport on the CPU. Import this module lazily: it loads numba.

Notation, in units of the regularisation: potentials ``f`` and ``g``, costs ``c·inv``, the plan
``P_ij = exp(f_i + g_j − c_ij·inv)`` and its column sums ``col``. A side is its masses, their
logarithms, how much of these the reference measure includes (``ref``: nothing, or all) and the
strength ``rho`` of its KL penalty (infinite: exact). The formulas are those of
:mod:`cellflow.transport.entropic.solve`.
"""

import numpy as np

from cellflow._numba import compiled
from cellflow.transport.entropic._newton import conjugate, factor

#: Entries smaller than this power of e, relative to the largest of their row, are zero.
CUT = -36.0
#: Largest change of a potential that sweeps make before the plan is computed afresh.
LARGEST = 300.0
#: Sweeps before Newton steps, and again where these fail; failures after which another solver is
#: asked.
SWEEPS, FAILURES = 10, 15
#: First ridge after a step that led nowhere, relative to the diagonal, and its growth from then on.
DAMP, GROWTH = 1e-4, 10.0
#: Steps of conjugate gradients before the Hessian is factored, for few and per many columns; and
#: before a factor is too old.
STEPS, PER_STEP, STALE = 8, 16, 10
#: Halvings of a Newton step that are tried.
HALVINGS = 8


@compiled
def _exp(x):
    """Exponential for ``CUT ≤ x ≤ 0`` to 1e-13: a polynomial squared, in vector registers."""
    t = x * (1.0 / 128.0)
    p = t * (1.0 / 39916800.0) + 1.0 / 3628800.0
    p = p * t + 1.0 / 362880.0
    p = p * t + 1.0 / 40320.0
    p = p * t + 1.0 / 5040.0
    p = p * t + 1.0 / 720.0
    p = p * t + 1.0 / 120.0
    p = p * t + 1.0 / 24.0
    p = p * t + 1.0 / 6.0
    p = p * t + 0.5
    p = p * t + 1.0
    p = p * t + 1.0
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * p


@compiled
def _potential(s, rho):
    """Return the best potential given the one that makes the marginal exact."""
    if rho == np.inf:
        return s
    return s * (rho / (1.0 + rho))


@compiled
def _target(mass, f, rho):
    """Return the marginal that is best at a potential."""
    if rho == np.inf:
        return mass
    return mass * np.exp(-f / rho)


@compiled
def _plan(c, inv, left, right, g, f, weight, col, plan):
    """Fill the plan of `g`, the best `f`, column sums, and the rows' weights in the Hessian."""
    mass, log, ref, rho = left
    n, m = c.shape
    shifted, scores = np.empty(m), np.empty(m)
    for j in range(m):
        shifted[j] = g[j] + right[2][j]
    col[:] = 0.0
    for i in range(n):
        row, cost = plan[i], c[i]
        top = -np.inf
        for j in range(m):
            scores[j] = shifted[j] - inv * cost[j]
        for j in range(m):
            top = max(top, scores[j])
        total = 0.0
        for j in range(m):
            x = scores[j] - top
            row[j] = _exp(max(x, CUT)) if x > CUT else 0.0
            total += row[j]
        exact = log[i] - ref[i] - top - np.log(total)
        f[i] = _potential(exact, rho)
        # An exact row has the sum `mass`: this one's is smaller by the change of its potential.
        sum_ = mass[i] * np.exp(f[i] - exact)
        slope = 1.0
        if rho != np.inf:
            slope = rho / (1.0 + rho)
        weight[i] = slope / max(sum_, 1e-300)
        scale = sum_ / total
        for j in range(m):
            row[j] *= scale
            col[j] += row[j]


@compiled
def _columns(c, inv, left, right, f, g):
    """Set `g` to the best potential of the columns given that of the rows, in the log domain."""
    _, log, ref, rho = right
    n, m = c.shape
    top, total = np.empty(m), np.empty(m)
    top[:] = -np.inf
    total[:] = 0.0
    for i in range(n):
        shifted, cost = f[i] + left[2][i], c[i]
        for j in range(m):
            top[j] = max(top[j], shifted - inv * cost[j])
    for i in range(n):
        shifted, cost = f[i] + left[2][i], c[i]
        for j in range(m):
            x = shifted - inv * cost[j] - top[j]
            total[j] += _exp(max(x, CUT)) if x > CUT else 0.0
    for j in range(m):
        g[j] = _potential(log[j] - ref[j] - top[j] - np.log(total[j]), rho)


@compiled
def _residual(right, g, col, residual, diagonal):
    """Fill the columns' residual and the Hessian's diagonal; return the relative L1 error."""
    mass, _, _, rho = right
    error, total = 0.0, 0.0
    for j in range(len(g)):
        target = _target(mass[j], g[j], rho)
        residual[j] = target - col[j]
        diagonal[j] = max(col[j], 1e-300)
        if rho != np.inf:
            diagonal[j] += target / rho
        error += abs(residual[j])
        total += col[j]
    return error / max(total, 1e-300)


@compiled
def _shift(left, right, f, g):
    """Return the best translation of f against g: zero where both marginals are exact."""
    rho, other = left[3], right[3]
    if rho == np.inf and other == np.inf:
        return 0.0
    logs = np.empty(2)
    for k in range(2):
        side, values = (left, f) if k == 0 else (right, g)
        top, total = -np.inf, 0.0
        for i in range(len(values)):
            top = max(top, side[1][i] - values[i] / side[3])
        for i in range(len(values)):
            total += np.exp(side[1][i] - values[i] / side[3] - top)
        logs[k] = top + np.log(total)
    return (logs[0] - logs[1]) / (1.0 / rho + 1.0 / other)


@compiled
def _sweeps(left, right, f, g, plan, count):
    """Run sweeps as scalings of the plan; move `f` and `g`, and return how many were run."""
    n, m = plan.shape
    f0, g0, left_sum, reached = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    u, v, rows, cols = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    for i in range(n):
        f0[i], u[i] = f[i], 1.0
    for j in range(m):
        g0[j] = g[j]
    for done in range(count):
        reached[:] = 0.0
        for i in range(n):
            row, x = plan[i], u[i]
            for j in range(m):
                reached[j] += x * row[j]
        least = np.inf
        for j in range(m):
            least = min(least, reached[j])
        if not least > 0.0:
            return done
        for j in range(m):
            cols[j] = _potential(g0[j] + right[1][j] - np.log(reached[j]), right[3])
            v[j] = np.exp(min(cols[j] - g0[j], LARGEST))
        for i in range(n):
            row, total = plan[i], 0.0
            for j in range(m):
                total += row[j] * v[j]
            left_sum[i] = total
            least = min(least, total)
        if not least > 0.0:
            return done
        move = 0.0
        for j in range(m):
            move = max(move, abs(cols[j] - g0[j]))
        for i in range(n):
            rows[i] = _potential(f0[i] + left[1][i] - np.log(left_sum[i]), left[3])
            move = max(move, abs(rows[i] - f0[i]))
        if not move < LARGEST:
            return done
        shift = _shift(left, right, rows, cols)
        for j in range(m):
            g[j] = cols[j] - shift
        for i in range(n):
            f[i] = rows[i] + shift
            u[i] = np.exp(min(max(f[i] - f0[i], -LARGEST), LARGEST))
    return count


@compiled
def _gain(side, old, new):
    """Return how much the penalty's part of the dual rises, and the size of its terms."""
    mass, _, _, rho = side
    gain, size = 0.0, 0.0
    for k in range(len(mass)):
        if rho == np.inf:
            term = mass[k] * (new[k] - old[k])
        else:
            term = -rho * mass[k] * np.exp(-old[k] / rho) * np.expm1((old[k] - new[k]) / rho)
        gain += term
        size += abs(term)
    return gain, size


@compiled
def _swept(c, inv, left, right, f, g, plan, count):
    """Run sweeps, at least one of them in the log domain; return how many."""
    done = _sweeps(left, right, f, g, plan, count)
    if done == 0:
        _columns(c, inv, left, right, f, g)
        done = 1
    return done


@compiled
def stage(c, inv, left, right, g, aim, budget, hessian):
    """Solve at one regularisation from `g`, which is moved; return error, iterations, f, plan.

    A factor of the Hessian, of this stage or the one before, preconditions until it is too old: it
    is taken and returned, without rows where there is none.
    """
    n, m = c.shape
    plan, other = np.empty((n, m)), np.empty((n, m))
    f, weight, col, residual = np.empty(n), np.empty(n), np.empty(m), np.empty(m)
    diagonal, move = np.empty(m), np.empty(m)
    f2, g2, col2, weight2 = np.empty(n), np.empty(m), np.empty(m), np.empty(n)
    singular = left[3] == np.inf and right[3] == np.inf
    _plan(c, inv, left, right, g, f, weight, col, plan)
    _columns(c, inv, left, right, f, g)
    _plan(c, inv, left, right, g, f, weight, col, plan)
    used, rounds, damp = 1, 0, 0.0
    while True:
        error = _residual(right, g, col, residual, diagonal)
        if error <= aim or used >= budget or rounds > FAILURES:
            return error, used, f, plan, hessian
        moved = False
        if rounds > 0:
            for j in range(m):
                diagonal[j] *= 1.0 + damp
            # Loose far from the end, where the step is no better than its linearisation.
            loose = min(0.3, max(error, 0.3 * aim / error))
            limit = STEPS + m // PER_STEP
            steps = STALE if len(hessian) else limit
            if not conjugate(plan, weight, diagonal, residual, hessian, move, loose, steps):
                hessian = factor(plan, weight, diagonal, right[0], singular)
                conjugate(plan, weight, diagonal, residual, hessian, move, loose, limit)
            slope, size, mass = 0.0, 1.0, 0.0
            for j in range(m):
                slope += residual[j] * move[j]
                mass += col[j]
            for _ in range(HALVINGS):
                for j in range(m):
                    g2[j] = g[j] + size * move[j]
                _plan(c, inv, left, right, g2, f2, weight2, col2, other)
                a, size_a = _gain(left, f, f2)
                b, size_b = _gain(right, g, g2)
                rest = mass
                for j in range(m):
                    rest -= col2[j]
                slack = 1e-14 * (size_a + size_b + abs(rest) + mass)
                if a + b + rest >= 1e-4 * size * slope - slack:
                    moved = True
                    break
                size *= 0.5
            used += 1
        if moved:
            for j in range(m):
                g[j] = g2[j]
            f, f2, col, col2 = f2, f, col2, col
            weight, weight2, plan, other = weight2, weight, other, plan
            damp = damp / GROWTH if damp > DAMP else 0.0
        else:
            damp = 0.0 if rounds == 0 else max(DAMP, GROWTH * damp)
            hessian = np.empty((0, 0))
            rounds += 1
            used += _swept(c, inv, left, right, f, g, plan, min(SWEEPS, budget - used))
            _plan(c, inv, left, right, g, f, weight, col, plan)
