from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellflow import _numba
from cellflow.transport.assignment import _auction
from cellflow.transport.assignment.solve import assign, assign_blocks


def half(x, y):
    return 0.5 * cdist(x, y, "sqeuclidean")


def clouds(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1.2 * rng.normal(size=(n, d)) + 0.5


def repeated(n, copies):
    x, y = clouds(n, 4)
    return half(np.repeat(x, copies, 0), np.repeat(y, copies, 0))


def lattice(n, side, d):
    rng = np.random.default_rng(0)
    return half(rng.integers(0, side, (n, d)), rng.integers(0, side, (n, d)))


def clusters(n):
    x, y = clouds(n, 3)
    rng = np.random.default_rng(1)
    return half(
        x * 0.01 + 10 * rng.integers(0, 3, (n, 1)), y * 0.01 + 10 * rng.integers(0, 3, (n, 1))
    )


def outlier(n):
    x, y = clouds(n, 3)
    x[0] *= 1e6
    return half(x, y)


rng = np.random.default_rng(0)
GAUSSIAN = half(*clouds(150, 5))
COSTS = {
    "gaussian 5-D": GAUSSIAN,
    "gaussian 50-D": half(*clouds(150, 50)),
    "line": half(*clouds(100, 1)),
    "uniform": rng.random((97, 97)),
    "huge": 1e8 * GAUSSIAN,
    "near overflow": 1e290 * GAUSSIAN,
    "tiny": 1e-8 * GAUSSIAN,
    "near underflow": 1e-300 * GAUSSIAN,
    "negative": -GAUSSIAN,
    "offset rows": GAUSSIAN + 1e4 * rng.normal(size=(150, 1)),
    "offset columns": GAUSSIAN + 1e4 * rng.normal(size=(1, 150)),
    "many ties": rng.integers(0, 3, (120, 120)).astype(float),
    "two values": rng.integers(0, 2, (120, 120)).astype(float),
    "lattice": lattice(128, 5, 2),
    "integers on a line": lattice(128, 20, 1),
    "repeated points": repeated(16, 8),
    "all equal": np.full((70, 70), 3.0),
    "all zero": np.zeros((70, 70)),
    "same row": np.tile(rng.random(50), (50, 1)),
    "products": np.outer(np.arange(80.0), np.arange(80.0)),
    "clusters": clusters(128),
    "outlier": outlier(128),
    "twelve decades": 10.0 ** (12 * rng.random((100, 100))),
    "last digits": 1.0 + 1e-12 * rng.random((60, 60)),
    **{f"{n} rows": rng.random((n, n)) for n in (1, 2, 3, 31, 32, 33, 64, 65)},
}


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_cost_equals_scipys_and_duals_certify_it(cost):
    n = len(cost)
    cols, u, v = assign(cost)
    assert sorted(cols) == list(range(n))
    best = cost[linear_sum_assignment(cost)].sum()
    scale = np.abs(cost).max()
    assert cost[np.arange(n), cols].sum() == pytest.approx(best, rel=1e-12, abs=1e-12 * scale)
    # Weak duality, by hand: no assignment can cost less than a feasible dual.
    assert (cost - u[:, None] - v).min() >= -1e-14 * scale
    assert u.sum() + v.sum() == pytest.approx(best, rel=1e-11, abs=1e-11 * scale)


def test_assignment_of_small_problems_is_that_of_scipy():
    rng = np.random.default_rng(3)
    for k in range(300):
        n = int(rng.integers(1, 30))
        cost = rng.random((n, n)) if k % 2 else rng.integers(0, 4, (n, n)).astype(float)
        cols = assign(cost)[0]
        assert cost[np.arange(n), cols].sum() == pytest.approx(
            cost[linear_sum_assignment(cost)].sum(), abs=1e-12
        )


@pytest.mark.parametrize("round_", ["AUCTION_BIDS", "EXACT_BIDS"])
def test_assignment_is_exact_whatever_the_auction_achieved(round_):
    """Each stage is bounded and the last one alone is exact: run the source with no bids at all."""
    names = (
        "_best_two",
        "_best_two_whole",
        "_auction",
        "_exact_bids",
        "_augment",
        "_starting_prices",
        "solve",
    )
    space = {**vars(_auction), round_: 0}
    for name in names:
        python = getattr(_auction, name).py_func
        space[name] = type(python)(python.__code__, space, name)
    cost = half(*clouds(20, 3))
    padded = np.full((20, 32), np.inf)
    padded[:, :20] = cost
    cols, _, _ = space["solve"](padded, 20)
    best = cost[linear_sum_assignment(cost)].sum()
    assert cost[np.arange(20), cols].sum() == pytest.approx(best, rel=1e-12)


def test_assignment_is_deterministic():
    assert np.array_equal(assign(COSTS["many ties"])[0], assign(COSTS["many ties"])[0])


def test_assignment_leaves_input_alone_and_takes_any_layout():
    cost = half(*clouds(40, 3))
    kept = cost.copy()
    cols = assign(cost)[0]
    assert np.array_equal(cost, kept)
    assert np.array_equal(assign(np.asfortranarray(cost))[0], cols)
    assert np.array_equal(assign(cost.astype(np.float32))[0], cols)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 5, 50])
def test_blocks_agree_with_scipy_and_with_a_matrix(d, dtype):
    x, y = (a.astype(dtype).reshape(4, 40, d) for a in clouds(160, d))
    cols, duals = assign_blocks(x, y)
    dual = duals.sum((1, 2))
    for b in range(4):
        cost = half(x[b], y[b])
        best = cost[linear_sum_assignment(cost)].sum()
        assert cost[np.arange(40), cols[b]].sum() == pytest.approx(best, rel=1e-12)
        p, q = (a - a.mean(0) for a in (x[b].astype(float), y[b].astype(float)))
        alone, u, v = assign(half(p, q))
        assert half(p, q[alone]).trace() == pytest.approx(dual[b], rel=1e-9)
        assert dual[b] == pytest.approx(u.sum() + v.sum(), rel=1e-9)


def test_distant_clouds_keep_their_digits():
    x, _ = clouds(64, 3)
    order = np.random.default_rng(0).permutation(64)
    (cols,), _ = assign_blocks(x[None], x[None, order] + 1e7)
    assert np.array_equal(order[cols], np.arange(64))


@pytest.mark.parametrize("name", ["solve", "half_squared", "solve_blocks"])
def test_the_interpreter_lock_is_released(name):
    """The sampler couples in a background thread. (Timing threads would be flaky.)"""
    assert getattr(_auction, name).targetoptions["nogil"]


def test_threads_do_not_disturb_each_other():
    x, y = (a.reshape(8, 64, 5) for a in clouds(512, 5))
    alone, _ = assign_blocks(x, y)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: assign_blocks(x, y), range(4)))
    assert all(np.array_equal(cols, alone) for cols, _ in both)


def test_without_a_writable_cache_the_kernels_are_compiled_anyway(monkeypatch):
    asked = []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(_numba, "njit", njit)
    assert _numba.compiled(len) is len
    assert [options.get("cache", False) for options in asked] == [True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_assignment_refuses_costs_that_are_not_finite(bad):
    with pytest.raises(
        ValueError, match="`cost`: got NaN or infinite values, expected finite costs"
    ):
        assign(np.array([[0.0, bad], [1.0, 1.0]]))


def test_the_two_least_whole_numbers_of_a_row_are_found_whatever_the_ties():
    rng = np.random.default_rng(0)
    for top in (2, 50, 2**26):
        for n in (1, 31, 64, 100):
            c = rng.integers(0, top, n).astype(np.int32)
            padded = np.full(-(-n // 32) * 32 + 32, _auction.FAR // 2, np.int32)
            padded[:n] = c
            v = np.zeros(len(padded), np.int32)
            v[:n] = -rng.integers(0, top, n)
            j, first, second = _auction._best_two_whole(padded, v)
            asked = np.sort((padded - v).astype(np.int64))
            assert j == np.argmin(padded - v)
            assert (first, second) == (asked[0], asked[1])
