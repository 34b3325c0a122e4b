"""Estimates with standard errors, for samples too large for an exact plan."""

from __future__ import annotations

import pytest
import torch

from cellflow import metrics


def clouds(n=4_000, m=3_000, d=3, shift=0.7):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, torch.randn(m, d, generator=g, dtype=torch.float64) + shift


def test_samples_agree_with_all_cells_where_nothing_is_biased():
    # On a line, and far apart, every sample's W1 is the difference of its means.
    x, y = clouds(d=1, shift=20.0)
    estimate = metrics.sampled_wasserstein(x, y, size=500, repeats=40)
    assert abs(estimate.value - metrics.wasserstein1(x, y)) < 4 * estimate.standard_error
    # Each sample has variance (1 + 1) / size, less what is drawn without replacement.
    assert estimate.standard_error == pytest.approx((2 / 500 / 40) ** 0.5, rel=0.35)
    assert estimate.draws == 40


def test_masses_are_drawn_in_proportion():
    x, y = clouds(d=1, shift=20.0)
    a, b = torch.arange(4_000) % 7, torch.rand(3_000, generator=torch.Generator().manual_seed(1))
    estimate = metrics.sampled_wasserstein(x, y, x_mass=a, y_mass=b, size=500, repeats=40)
    exact = metrics.wasserstein1(x, y, x_mass=a, y_mass=b)
    assert abs(estimate.value - exact) < 4 * estimate.standard_error


@pytest.mark.parametrize("power", [1, 2])
def test_floor_is_the_value_of_a_perfect_prediction(power):
    x, y = clouds(shift=0.0)
    same = metrics.sampled_wasserstein(x, y, power=power, size=200, repeats=8)
    assert same.value == pytest.approx(same.floor, rel=0.1)
    apart = metrics.sampled_wasserstein(x, y + 2.0, power=power, size=200, repeats=8)
    assert apart.value > 2 * apart.floor
    smaller = metrics.sampled_wasserstein(x, y, power=power, size=50, repeats=8)
    assert smaller.floor > same.floor + 4 * smaller.standard_error  # the bias of fewer cells


def test_samples_of_all_cells_are_the_halves():
    x, y = clouds(40, 40)
    estimate = metrics.sampled_wasserstein(x, y, size=20, repeats=2, generator=3)
    again = metrics.sampled_wasserstein(x.numpy(), y, size=20, repeats=2, generator=3)
    assert estimate == again
    assert estimate != metrics.sampled_wasserstein(x, y, size=20, repeats=2, generator=4)


def test_sliced_has_the_error_of_its_lines():
    x, _ = clouds(50)
    shift = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    n = 4_000
    second = metrics.sliced_wasserstein(x, x + shift, n_projections=n)
    # E (θ·c)² = |c|²/d = 3 and Var (θ·c)² = |c|⁴ (3/15 − 1/9) = 7.2 for d = 3
    assert second.standard_error == pytest.approx((7.2 / n) ** 0.5 / (2 * 3**0.5), rel=0.1)
    assert abs(second.value - 3**0.5) < 4 * second.standard_error
    assert second.value == metrics.sliced_wasserstein2(x, x + shift, n_projections=n)
    # |θ·c| is uniform on [0, 3]
    first = metrics.sliced_wasserstein(x, x + shift, power=1, n_projections=n)
    assert abs(first.value - 1.5) < 4 * first.standard_error
    assert first.standard_error == pytest.approx((0.75 / n) ** 0.5, rel=0.1)
    assert metrics.sliced_wasserstein(x, x) == metrics.Estimate(0.0, 0.0, 256)


def test_bad_input_says_what_to_do():
    x, y = clouds(100, 60)
    with pytest.raises(ValueError, match="`size`: got 31, expected at most 30, half of"):
        metrics.sampled_wasserstein(x, y, size=31)
    with pytest.raises(ValueError, match="`repeats`: got 1, expected an integer of at least 2"):
        metrics.sampled_wasserstein(x, y, size=30, repeats=1)
    for f in (metrics.sampled_wasserstein, metrics.sliced_wasserstein):
        with pytest.raises(ValueError, match="`power`: got 3, expected an integer"):
            f(x, y, power=3)
        with pytest.raises(ValueError, match="`y`: got 2 dimensions, expected 3"):
            f(x, y[:, :2])
