from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist, pdist
from torch.testing import assert_close

from cellflow import metrics
from cellflow.metrics import metric as shared
from cellflow.metrics import sliced


@pytest.fixture(params=metrics.METRICS, ids=str)
def case(request):
    return metrics.METRICS[request.param]


@pytest.fixture
def metric(case):
    return partial(case.function, **case.settings)


def clouds(n=60, m=45, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = 1.5 * torch.randn(m, d, generator=g, dtype=torch.float64) + 0.7
    return x, y


# --- laws of every metric ---------------------------------------------------------------------


def test_zero_on_itself_and_positive_otherwise(metric):
    x, y = clouds()
    # Expanding |x − y|² in float64 leaves some 1e-8 between coincident cells, divided by n.
    assert abs(metric(x, x.flip(0))) < 2e-9
    assert metric(x, y) > 0.05


def test_metric_is_symmetric(metric):
    x, y = clouds()
    assert metric(x, y) == pytest.approx(metric(y, x), rel=1e-12)


def test_order_of_cells_is_irrelevant(metric):
    x, y = clouds()
    assert metric(x.flip(0), y.roll(7, 0)) == pytest.approx(metric(x, y), rel=1e-12)


def test_translation_and_rotation_invariant(case):
    metric = partial(case.function, **case.settings)
    x, y = clouds()
    shift = torch.tensor([5.0, -3.0, 2.0], dtype=torch.float64)
    assert metric(x + shift, y + shift) == pytest.approx(metric(x, y), rel=1e-12)
    if case.rotation_invariant:
        noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        q = torch.linalg.qr(noise).Q
        assert metric(x @ q, y @ q) == pytest.approx(metric(x, y), rel=1e-12)


def test_scales_with_the_data(case):
    if case.exponent is None:
        pytest.skip("has its own length scale")
    x, y = clouds()
    assert case(3 * x, 3 * y) == pytest.approx(3**case.exponent * case(x, y), rel=1e-12)


def test_mass_counts_like_repeated_cells(metric):
    x, y = clouds(20, 15)
    a, b = torch.arange(20) % 3 + 1, torch.arange(15) % 2 + 1
    repeated = metric(x.repeat_interleave(a, 0), y.repeat_interleave(b, 0))
    weighted = metric(x, y, x_mass=a, y_mass=5.0 * b)
    assert weighted == pytest.approx(repeated, rel=1e-9)
    assert abs(weighted - metric(x, y)) > 1e-4


def test_zero_mass_counts_like_absence(metric):
    x, y = clouds()
    a = torch.ones(60)
    a[40:] = 0
    assert metric(x, y, x_mass=a) == pytest.approx(metric(x[:40], y), rel=1e-12)


def test_float32_far_from_the_origin(metric):
    x, y = clouds()
    x, y = (x + 1e4).float(), (y + 1e4).float()
    near = metric(x.double() - 1e4, y.double() - 1e4)
    assert metric(x, y) == pytest.approx(near, rel=1e-10)


def test_accepts_numpy_and_gradients(metric):
    x, y = clouds()
    value = metric(x, y)
    assert isinstance(value, float)
    assert metric(x.numpy(), y.clone().requires_grad_(True)) == value


def test_global_random_state_is_untouched(metric):
    state, legacy = torch.get_rng_state(), np.random.get_state()
    metric(*clouds())
    assert torch.equal(state, torch.get_rng_state())
    after = np.random.get_state()
    assert all(np.array_equal(p, q) for p, q in zip(legacy, after, strict=True))


def test_bad_input_says_what_to_do(metric):
    x, y = clouds()
    broken = x.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"`x`: got NaN .* \(first: row 3\).*Remove or impute"):
        metric(broken, y)
    with pytest.raises(ValueError, match="`y`: got 2 dimensions, expected 3 as in `x`"):
        metric(x, y[:, :2])
    with pytest.raises(ValueError, match=r"`y`: got shape \(3,\)"):
        metric(x, y[0])
    with pytest.raises(ValueError, match=r"`x`: got 0 cells"):
        metric(x[:0], y)
    with pytest.raises(ValueError, match=r"`y_mass`: got shape \(60,\), expected \(45,\)"):
        metric(x, y, y_mass=torch.ones(60))
    with pytest.raises(ValueError, match="`x_mass`: got values from -1 to -1"):
        metric(x, y, x_mass=-torch.ones(60))


def test_metric_does_not_depend_on_the_size_of_blocks(metric, monkeypatch):
    x, y = clouds()
    whole = metric(x, y)
    monkeypatch.setattr(shared, "BLOCK_ENTRIES", 200)
    monkeypatch.setattr(sliced, "BLOCK_ENTRIES", 400)
    assert metric(x, y) == pytest.approx(whole, rel=1e-12)


# --- sliced, energy, MMD ----------------------------------------------------------------------


def test_sliced_translation_and_bound():
    x, y = clouds(80, 80)
    shift = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    n = 20_000
    ours = metrics.sliced_wasserstein2(x, x + shift, n_projections=n)
    # E (θ·c)² = |c|²/d = 3 and Var (θ·c)² = |c|⁴ (3/15 − 1/9) = 7.2 for d = 3
    assert abs(ours**2 - 3.0) < 4 * (7.2 / n) ** 0.5
    assert metrics.sliced_wasserstein2(x, y) < metrics.wasserstein2(x, y)


def test_sliced_in_one_dimension_is_w2():
    x, y = clouds(50, 31, d=1)
    ours = metrics.sliced_wasserstein2(x, y, x_mass=torch.arange(1, 51), n_projections=3)
    assert ours == pytest.approx(metrics.wasserstein2(x, y, x_mass=torch.arange(1, 51)), rel=1e-12)


def test_sliced_is_seeded():
    x, y = clouds()
    f = metrics.sliced_wasserstein2
    assert f(x, y, generator=3) == f(x, y, generator=3) != f(x, y, generator=4)


def test_energy_in_one_dimension_against_scipy():
    x, y = clouds(300, 211, d=1)
    a, b = torch.rand(300, generator=torch.Generator().manual_seed(2)), torch.arange(1.0, 212.0)
    theirs = scipy.stats.energy_distance(x[:, 0], y[:, 0], a, b) ** 2
    assert metrics.energy_distance(x, y, x_mass=a, y_mass=b) == pytest.approx(theirs, rel=1e-10)


def test_unbiased_energy_and_mmd_against_all_distinct_pairs():
    x, y = clouds()
    energy = 2 * cdist(x, y).mean() - pdist(x).mean() - pdist(y).mean()
    assert metrics.energy_distance(x, y, unbiased=True) == pytest.approx(energy, rel=1e-10)

    def kernel(squared):
        return np.exp(-squared / (2 * 1.7**2)).mean()

    name = "sqeuclidean"
    exact = kernel(pdist(x, name)) + kernel(pdist(y, name)) - 2 * kernel(cdist(x, y, name))
    assert metrics.mmd(x, y, bandwidth=1.7) == pytest.approx(exact, rel=1e-10)


def test_unbiased_mmd_has_the_population_value_as_its_mean():
    h, shift, repeats = 1.0, 0.8, 60
    g = torch.Generator().manual_seed(0)
    values = []
    for _ in range(repeats):
        x = torch.randn(40, 1, generator=g, dtype=torch.float64)
        y = torch.randn(40, 1, generator=g, dtype=torch.float64) + shift
        values.append(metrics.mmd(x, y, bandwidth=h))
    # E k(X, Y) for X - Y ~ N(shift, 2)
    within = h / (h**2 + 2) ** 0.5
    exact = 2 * within * (1 - np.exp(-(shift**2) / (2 * (h**2 + 2))))
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / repeats**0.5


def test_median_heuristic():
    x, y = clouds(60, 43)  # an odd number of pairs: the median is one of them
    h = float(np.median(pdist(torch.cat([x, y]))))
    assert metrics.mmd(x, y) == pytest.approx(metrics.mmd(x, y, bandwidth=h), rel=1e-12)
    with pytest.raises(ValueError, match="`bandwidth`: got a median distance of 0"):
        metrics.mmd(torch.ones(5, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="`bandwidth`: got -1"):
        metrics.mmd(x, y, bandwidth=-1)


def test_unbiased_needs_two_cells():
    x, y = clouds()
    for f in (metrics.mmd, metrics.energy_distance):
        with pytest.raises(ValueError, match="`y`: got 1 cell, expected at least 2"):
            f(x, y[:1], unbiased=True)
    assert metrics.energy_distance(x[:1], y[:1]) == pytest.approx(2 * float((x[0] - y[0]).norm()))


# --- noise floor ------------------------------------------------------------------------------


def test_floor_compares_disjoint_halves():
    x = torch.arange(11.0)[:, None]
    seen = []

    def record(left, right):
        seen.append((set(left.flatten().tolist()), set(right.flatten().tolist())))
        return len(seen)

    values = metrics.split_half_floor(x, record, generator=0, repeats=3)
    assert_close(values, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert all(len(p) == len(q) == 5 and not p & q for p, q in seen)
    assert seen[0] != seen[1]


def test_floor_is_seeded_and_sized():
    x, _ = clouds(100)
    f = metrics.split_half_floor
    assert_close(f(x, metrics.wasserstein1, generator=1), f(x, metrics.wasserstein1, generator=1))
    small = f(x, metrics.wasserstein1, generator=1, size=10)
    assert small.mean() > f(x, metrics.wasserstein1, generator=1).mean()
    with pytest.raises(ValueError, match="`size`: got 51, expected at most 50"):
        f(x, metrics.wasserstein1, size=51)
