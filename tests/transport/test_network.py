"""Column generation against the plain simplex, assignment and brute force; its certificate."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellflow import metrics
from cellflow.metrics import wasserstein
from cellflow.transport.network import _arcs, _tree, solve

DISTANCES = {1: metrics.wasserstein1, 2: metrics.wasserstein2}


@pytest.fixture
def column_generation(monkeypatch):
    """Send every problem through it, and fail if the plain simplex is asked."""
    monkeypatch.setattr(wasserstein, "LARGE", 0)
    monkeypatch.setattr(wasserstein, "FEWEST", solve.PICKED)
    monkeypatch.setattr(wasserstein, "_plain", lambda *_: pytest.fail("not certified"))


def clouds(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1.2 * rng.normal(size=(m, d)) + 0.3


def lattice(n, m):
    rng = np.random.default_rng(0)
    return rng.integers(0, 6, (n, 2)).astype(float), rng.integers(0, 6, (m, 2)).astype(float)


def clusters(n, m):
    rng = np.random.default_rng(0)
    x, y = clouds(n, m, 3)
    return 0.01 * x + 10 * rng.integers(0, 3, (n, 1)), 0.01 * y + 10 * rng.integers(0, 3, (m, 1))


def outlier(n, m):
    x, y = clouds(n, m, 3)
    x[0] *= 1e4
    return x, y


def optimum(x, y, power, a=None, b=None):
    cost = cdist(x, y) ** power
    a, b = (np.ones(len(v)) if w is None else w for v, w in ((x, a), (y, b)))
    return ot.emd2(a / a.sum(), b / b.sum(), cost, numItermax=10**8) ** (1 / power)


X, Y = clouds(300, 240, 5)
PAIRS = {
    "5-D": (X, Y),
    "50-D": clouds(220, 260, 50),
    "as many": clouds(300, 300, 5),
    "coprime sizes": clouds(211, 210, 3),
    "few against many": clouds(400, 20, 3),
    "huge": (1e150 * X, 1e150 * Y),
    "tiny": (1e-150 * X, 1e-150 * Y),
    "far away": (np.round(X, 3) + 1e6, np.round(Y, 3) + 1e6),
    "far apart": (X, Y + 1e5),
    "repeated": (np.repeat(X[:30], 10, 0), np.repeat(Y[:24], 10, 0)),
    "lattice": lattice(256, 200),
    "lattice, as many": lattice(200, 200),
    "on a line": (X[:, :1] * np.ones(3), Y[:, :1] * np.ones(3)),
    "clusters": clusters(200, 250),
    "outlier": outlier(200, 250),
    "one place": (np.ones((40, 2)), Y[:50, :2]),
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("x", "y"), PAIRS.values(), ids=PAIRS)
def test_column_generation_equals_the_plain_simplex(column_generation, x, y, power):
    centre, scale = x.mean(0), np.ptp(np.concatenate([x, y]))
    exact = scale * optimum((x - centre) / scale, (y - centre) / scale, power)
    assert DISTANCES[power](x, y) == pytest.approx(exact, rel=1e-9)


MASSES = {
    "random": lambda rng, n: rng.random(n) + 0.01,
    "with zeros": lambda rng, n: rng.integers(0, 3, n).astype(float),
    "twelve decades": lambda rng, n: 10.0 ** (12 * rng.random(n)),
    "one that outweighs all": lambda rng, n: np.r_[1e3 * n, np.ones(n - 1)],
    "all equal": lambda rng, n: np.full(n, 7.0),
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("mass", MASSES.values(), ids=MASSES)
def test_column_generation_respects_masses(column_generation, mass, power):
    rng = np.random.default_rng(1)
    a, b = mass(rng, len(X)), mass(rng, len(Y))
    value = DISTANCES[power](X, Y, x_mass=a, y_mass=b)
    assert value == pytest.approx(optimum(X, Y, power, a, b), rel=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_large_problem_is_solved_by_column_generation_and_equals_an_assignment(monkeypatch, power):
    monkeypatch.setattr(wasserstein, "_plain", lambda *_: pytest.fail("not certified"))
    x, y = clouds(1_500, 1_500, 5)
    cost = cdist(x, y) ** power
    exact = cost[linear_sum_assignment(cost)].mean() ** (1 / power)
    assert DISTANCES[power](x, y) == pytest.approx(exact, rel=1e-12)


def test_coarse_problem_is_coarsened_again(column_generation, monkeypatch):
    monkeypatch.setattr(solve, "SMALL", 210)
    x, y = clouds(1_800, 1_700, 3)
    assert metrics.wasserstein1(x, y) == pytest.approx(optimum(x, y, 1), rel=1e-10)


def test_equal_clouds_are_at_distance_zero(column_generation):
    assert metrics.wasserstein1(X, X[::-1].copy()) == 0.0
    assert metrics.wasserstein2(np.ones((30, 2)), np.ones((40, 2))) == 0.0
    near = metrics.wasserstein2(X, X[::-1] + np.array([1e-6, 0, 0, 0, 0]))
    assert near == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_column_generation_handles_many_cells_at_one_place(column_generation, power):
    x, y = clouds(1_500, 1_300, 4)
    x[:1_200] = x[0]
    metric = (metrics.wasserstein1, metrics.wasserstein2)[power - 1]
    assert metric(x, y) == pytest.approx(optimum(x, y, power), rel=1e-9)


def test_distance_does_not_depend_on_tiles(column_generation, monkeypatch):
    whole = metrics.wasserstein1(X, Y)
    monkeypatch.setattr(solve, "KEPT", 0)
    monkeypatch.setattr(solve, "TILE", 7_000)
    assert metrics.wasserstein1(X, Y) == pytest.approx(whole, rel=1e-13)


def test_pivots_are_bounded(column_generation):
    with pytest.raises(RuntimeError, match="no optimum after 50 pivots for 300 × 240 cells"):
        metrics.wasserstein1(X, Y, max_iter=50)


def test_exact_distance_refuses_too_many_pairs():
    x = torch.zeros(1, 2).expand(100_001, 2)
    with pytest.raises(ValueError, match=r"got 100,001 × 100,001 cells.*Use sliced_wasserstein2"):
        metrics.wasserstein1(x, x)


# --- the certificate --------------------------------------------------------------------------


def example(power=1, x=X, y=Y):
    x, y = torch.from_numpy(x) / 10, torch.from_numpy(y) / 10
    a, b = (np.full(n, 1.0 / n) for n in (len(x), len(y)))
    return solve.Problem(x, y, *solve.whole_units(a, b), power, 10**6)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4, 1.0])
def test_any_duals_give_a_lower_bound(power, noise):
    task = example(power)
    solution = solve.solve(task)
    rng = np.random.default_rng(0)
    u = solution.u + noise * rng.normal(size=len(X))
    v = solution.v + noise * rng.normal(size=len(Y))
    (rows, cols), bound = solve._violations(task, u, v, 1e-13)
    slack = cdist(X / 10, Y / 10) ** power - u[:, None] - v
    feasible = (u + np.minimum(slack.min(1), 0.0)).mean() + v.mean()
    assert bound == pytest.approx(feasible, abs=1e-14)
    exact = optimum(X / 10, Y / 10, power) ** power
    assert bound <= exact + 1e-14
    assert (slack[rows, cols] < 0).all()
    assert set(rows) == set(np.flatnonzero((slack < -1e-13).any(1)))
    assert (bound > exact - 1e-13) == (noise == 0.0)


def test_wrong_duals_are_refused(monkeypatch):
    monkeypatch.setattr(wasserstein, "LARGE", 0)
    right = solve._Graph.duals.fget
    monkeypatch.setattr(
        solve._Graph, "duals", property(lambda self: (right(self)[0] - 1e-3, right(self)[1]))
    )
    monkeypatch.setattr(solve, "ROUNDS", 3)
    assert metrics.wasserstein1(X, Y) == pytest.approx(optimum(X, Y, 1), rel=1e-9)  # the plain way
    monkeypatch.setattr(wasserstein, "DENSE_LIMIT", 0)
    with pytest.raises(RuntimeError, match=r"no certified optimum for 300 × 240 cells.*Use"):
        metrics.wasserstein1(X, Y)


def test_a_plan_on_too_few_arcs_is_refused(monkeypatch):
    monkeypatch.setattr(wasserstein, "LARGE", 0)
    monkeypatch.setattr(wasserstein, "DENSE_LIMIT", 0)
    monkeypatch.setattr(solve, "ROUNDS", 1)
    monkeypatch.setattr(solve, "_guess", lambda p: (np.zeros(len(X)), np.zeros(len(Y)), 0.1))
    with pytest.raises(RuntimeError, match="no certified optimum"):
        metrics.wasserstein2(X, Y)


def test_rounding_is_bounded():
    """What a tile says is no further from the truth than the margin of the screen."""
    for power in (1, 2):
        for x, y in (clouds(200, 150, 40), (X, X[:200] + 1e-9)):
            scale = max(np.linalg.norm(x, axis=1).max(), np.linalg.norm(y, axis=1).max())
            task = example(power, 10 * x / scale, 10 * y / scale)
            truth = cdist(x / scale, y / scale) ** power
            for _, tile in task.tiles():
                assert np.abs(tile - truth).max() < task.margin(task.dtype)


def test_costs_near_the_duals_are_computed_in_float64():
    assert example().dtype == torch.float32
    assert example(x=1e-5 * X + 1.0, y=1e-5 * Y + 1.0).dtype == torch.float64
    torch.set_float32_matmul_precision("medium")
    try:
        assert example().dtype == torch.float64
    finally:
        torch.set_float32_matmul_precision("highest")


# --- the parts --------------------------------------------------------------------------------


def test_picked_arcs_have_the_least_reduced_cost():
    task = example()
    rng = np.random.default_rng(0)
    u, v = 0.01 * rng.normal(size=len(X)), 0.01 * rng.normal(size=len(Y))
    rows, cols = solve._pick(task, u, v)
    slack = cdist(X / 10, Y / 10) - u[:, None] - v
    k = solve.PICKED
    near = np.zeros(slack.shape, bool)
    np.put_along_axis(near, slack.argsort(1)[:, :k], True, 1)
    np.put_along_axis(near, slack.argsort(0)[:k], True, 0)
    assert sorted(zip(rows, cols, strict=True)) == list(zip(*near.nonzero(), strict=True))


def test_units_are_exact():
    a, b = solve.whole_units(np.full(40, 1 / 40), np.full(36, 1 / 36))
    assert a.tolist() == [9] * 40
    assert b.tolist() == [10] * 36
    rng = np.random.default_rng(0)
    masses = [m / m.sum() for m in (rng.random(1_000), 10.0 ** (9 * rng.random(77)))]
    units = solve.whole_units(*masses)
    assert units[0].sum() == units[1].sum() == 2**60
    for mass, unit in zip(masses, units, strict=True):
        assert np.abs(unit / 2.0**60 - mass).max() < 1e-15


@pytest.mark.parametrize(("n", "m"), [(23, 19), (20, 20), (24, 16)])
def test_tree_is_sound_after_every_pivot(n, m):
    x, y = clouds(n, m, 2)
    rows, cols = (
        v.ravel().astype(np.int32) for v in np.meshgrid(range(n), range(m), indexing="ij")
    )
    cost = _arcs.true_costs(x, y, rows, cols, True)
    units = np.r_[np.full(n, m), np.full(m, n)]
    heads, toll = cols + np.int32(n), np.full(n + m + 1, 1e3)
    tree = _tree.empty_tree(n + m + 1)
    _tree.grow(tree, rows, heads, n, units, np.random.default_rng(0).permutation(n * m))
    left = -1
    for _ in range(400):
        ring = [n + m]
        while tree.after[ring[-1]] != n + m:
            ring.append(int(tree.after[ring[-1]]))
        assert sorted(ring) == list(range(n + m + 1))
        below = {v: {v} for v in ring}
        for v in reversed(ring[1:]):
            below[int(tree.parent[v])] |= below[v]
        net = np.zeros(n + m + 1, np.int64)
        for at, v in enumerate(ring):
            assert tree.before[tree.after[v]] == v
            assert tree.size[v] == len(below[v])
            assert set(ring[at : at + len(below[v])]) == below[v]  # preorder
            assert tree.last[v] == ring[at + len(below[v]) - 1]
            if v < n + m:
                assert tree.flow[v] > 0 or (tree.flow[v] == 0 and tree.up[v])  # strongly feasible
                signed = tree.flow[v] if tree.up[v] else -tree.flow[v]
                net[v] += signed
                net[tree.parent[v]] -= signed
        assert net.tolist() == [m] * n + [-n] * m + [0]
        if left >= 0:
            break
        _tree.price(tree, cost, toll)
        left = _tree.pivot(tree, rows, heads, cost, 1e-13, 50, 1)
    assert left in (0, 1)  # the last pivot counts
    real = np.flatnonzero(tree.arc[:-1] >= 0)
    value = cost[tree.arc[real]] @ tree.flow[real] / (n * m)
    assert value == pytest.approx(optimum(x, y, 1), rel=1e-12)
