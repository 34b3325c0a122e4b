"""Laws of the paths, and the closed forms of their members."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from cases import FROM_NOISE, PATHS
from cellflow.paths import (
    BrownianBridge,
    ConditionalOT,
    Pairs,
    Path,
    Straight,
    VarianceExploding,
    VariancePreserving,
)


def pairs(n: int = 5, d: int = 3, span: float = 2.5) -> Pairs:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    t0 = torch.full((n, 1), 1.5, dtype=torch.float64)
    return Pairs(x[0], x[1], t0, t0 + span)


def at(path: Path, p: Pairs, s: float, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(p.x0.shape, generator=g, dtype=torch.float64)
    return path.at(p, torch.full((len(p.x0), 1), s, dtype=torch.float64), noise)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_mean_goes_from_source_to_target(path: Path) -> None:
    p = pairs()
    zero, one = torch.zeros(5, 1, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    assert_close(path.mean(p, one), p.x1)
    if not path.source_free:
        assert_close(path.mean(p, zero), p.x0)


@pytest.mark.parametrize("path", FROM_NOISE.values(), ids=FROM_NOISE)
def test_path_from_noise_is_a_multiple_of_the_target_and_noise(path: Path) -> None:
    p, s = pairs(), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[:, None]
    other = Pairs(p.x1 + 1, 2 * p.x1, p.t0, p.t1)
    assert_close(path.mean(other, s), 2 * path.mean(p, s))
    assert (path.std(p, s).diff(dim=0) < 0).all()
    # The signal is far below the noise at the source, and the noise below the signal at the end.
    ends = torch.tensor([[path.margin], [1 - path.margin]], dtype=torch.float64)
    two = p.part(0, 3)
    ratio = path.std(two, ends) / (path.mean(two, ends) / two.x1).mean(1, keepdim=True)
    assert ratio[0] > 15
    assert ratio[1] < 0.02


@pytest.mark.parametrize("path", FROM_NOISE.values(), ids=FROM_NOISE)
def test_diffusion_is_that_of_the_process_with_these_marginals(path: Path) -> None:
    """Of x = a y + b z the noising SDE has, towards the source, g² = -2 b b' + 2 b² a' / a."""
    s = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[:, None]
    one = torch.ones_like(s)
    p = Pairs(one, one, one, one + 1)
    diffusion, b = path.diffusion_at(s), path.std(p, s)
    if diffusion is not None:
        noise = path.mean_rate(p, s) / path.mean(p, s) * b - path.std_rate(p, s)
        assert_close(diffusion**2, 2 * b * noise)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_closed_form_rates_equal_automatic_ones(path: Path) -> None:
    p = pairs()
    s = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)[:, None]
    assert_close(path.mean_rate(p, s), Path.mean_rate(path, p, s))
    assert_close(path.std_rate(p, s), Path.std_rate(path, p, s))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("s", [0.2, 0.5, 0.85])
def test_velocity_is_the_rate_of_the_state_in_real_time(path: Path, s: float) -> None:
    """With its noise held fixed, a state moves at the velocity: a central difference says so."""
    p, h = pairs(), 1e-5
    after, before = at(path, p, s + h), at(path, p, s - h)
    difference = (after.x - before.x) / (after.t - before.t)[:, None]
    assert_close(at(path, p, s).velocity, difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_halving_the_gap_doubles_the_velocity(path: Path) -> None:
    def mean_velocity(span: float):
        p = pairs(span=span)
        s = torch.full((5, 1), 0.3, dtype=torch.float64)
        return path.at(p, s, torch.zeros_like(p.x0)).velocity

    assert_close(mean_velocity(1.0), 2 * mean_velocity(2.0))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_draws_are_inside_the_interval_and_reproducible(path: Path) -> None:
    p = pairs(n=2000)
    before = torch.get_rng_state()
    a = path.draw(p, torch.Generator().manual_seed(3))
    b = path.draw(p, torch.Generator().manual_seed(3))
    assert_close(a.x, b.x, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    s = (a.t - 1.5) / 2.5
    assert s.min() >= path.margin
    assert s.max() <= 1 - path.margin
    # Uniform in s: mean 1/2 within four standard errors.
    assert abs(float(s.mean()) - 0.5) < 4 / (12 * 2000) ** 0.5
    assert_close(a.x, path.mean(p, s[:, None]) + a.std * a.noise)


def test_bridge_has_the_variance_of_a_brownian_bridge() -> None:
    """Var = sigma² (t - t0)(t1 - t) / (t1 - t0), written in real time."""
    p, path = pairs(span=4.0), BrownianBridge(0.7)
    point = at(path, p, 0.25)
    expected = 0.7**2 * (point.t - 1.5) * (5.5 - point.t) / 4.0
    assert_close(point.std[:, 0] ** 2, expected)


def test_bridge_velocity_is_the_flow_of_its_conditional_gaussian() -> None:
    """Tong et al. 2024, eq. 21, in real time: (1 - 2s) / (2 s (1 - s) span) (x - mean) + rate."""
    p, path, s = pairs(), BrownianBridge(1.3), 0.3
    point = at(path, p, s)
    mean = path.mean(p, torch.full((5, 1), s, dtype=torch.float64))
    pull = (1 - 2 * s) / (2 * s * (1 - s)) * (point.x - mean)
    assert_close(point.velocity, (pull + p.x1 - p.x0) / p.span)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Straight(-0.1), "sigma"),
        (lambda: Straight(float("nan")), "sigma"),
        (lambda: BrownianBridge(0.0), "sigma"),
        (lambda: BrownianBridge(1.0, margin=0.6), "margin"),
        (lambda: ConditionalOT(0.0), "sigma_min"),
        (lambda: VariancePreserving(1.0, 0.5), "beta_max"),
        (lambda: VarianceExploding(1.0, 1.0), "sigma_max"),
    ],
)
def test_bad_settings_are_named(make, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`: got .* expected a finite number"):
        make()


def test_noise_at_both_ends_is_as_it_was_set() -> None:
    p, ends = pairs(2), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    wide = VarianceExploding(sigma_min=0.1, sigma_max=7.0)
    assert_close(wide.std(p, ends).flatten().tolist(), [7.0, 0.1])
    assert_close(ConditionalOT(0.1).std(p, ends).flatten().tolist(), [1.0, 0.1])
    rates = VariancePreserving(beta_min=0.2, beta_max=9.0)
    assert_close((rates.diffusion_at(ends) ** 2).flatten().tolist(), [9.0, 0.2])
    alpha = rates.mean(p, ends[:1]) / p.x1  # the integral of the rates is their mean
    assert_close(alpha, torch.full_like(alpha, math.exp(-0.5 * 4.6)))
