from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow import toys
from cellflow.dynamics import divergence
from closed_forms import gaussian_displacement

SAMPLERS = {"eight_gaussians": toys.eight_gaussians, "moons": toys.moons}
# Two laws whose covariances do not commute.
SOURCE = toys.Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 0.8]])
TARGET = toys.Gaussian([2.0, 1.0], [[0.5, -0.3], [-0.3, 1.5]])


def test_example_covariances_do_not_commute():
    assert (SOURCE.cov @ TARGET.cov - TARGET.cov @ SOURCE.cov).abs().max() > 0.1


def test_numbers_of_python_keep_their_digits():
    law = toys.Gaussian([0.1], [[0.3]])
    assert float(law.mean) == 0.1
    assert float(law.cov) == 0.3


# --- samplers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_seeded_and_typed(name):
    sample = SAMPLERS[name]
    state = torch.get_rng_state()
    x = sample(50, generator=1, dtype=torch.float64)
    assert x.shape == (50, 2)
    assert x.dtype == torch.float64
    assert torch.equal(x, sample(50, generator=1, dtype=torch.float64))
    assert not torch.equal(x, sample(50, generator=2, dtype=torch.float64))
    assert sample(50, generator=1).dtype == torch.get_default_dtype()
    assert_close(sample(50, generator=1), x.float())
    sample(3, generator=None)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="`n`: got 0, expected an integer of at least 1"):
        sample(0)


def test_gaussian_has_its_moments():
    n = 20_000
    x = SOURCE.sample(n, generator=0)
    z = (x.mean(0) - SOURCE.mean) / (SOURCE.cov.diag() / n).sqrt()
    assert z.abs().max() < 4
    s = SOURCE.cov
    se = ((s.square() + torch.outer(s.diag(), s.diag())) / n).sqrt()  # Wishart
    assert ((torch.cov(x.T) - s) / se).abs().max() < 4


def test_gaussian_may_be_singular():
    x = toys.Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]]).sample(100, generator=0)
    assert_close(x[:, 0], x[:, 1], atol=1e-7, rtol=0)


def test_eight_gaussians_geometry():
    n = 20_000
    x = toys.eight_gaussians(n, generator=0, dtype=torch.float64, std=0.01)
    turns = torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 4)
    assert (turns - turns.round()).abs().max() < 0.02
    assert_close(x.norm(dim=1).mean(), torch.tensor(5.0, dtype=torch.float64), atol=1e-3, rtol=0)
    counts = torch.bincount(turns.round().long() % 8, minlength=8)
    assert (counts - n / 8).abs().max() < 4 * (n / 8 * 7 / 8) ** 0.5
    # The reference code's spread: variance sqrt(0.1) within a mode.
    options = {"generator": 0, "dtype": torch.float64}
    within = (toys.eight_gaussians(n, **options) - toys.eight_gaussians(n, std=0, **options)).var(0)
    assert (within / 0.1**0.5 - 1).abs().max() < 4 * (2 / n) ** 0.5


def test_moons_geometry():
    x = toys.moons(5_000, generator=0, noise=0.0, dtype=torch.float64)
    unit = (x + 1) / 3
    upper = (unit.norm(dim=1) - 1).abs() < 1e-12
    lower = ((unit - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs() < 1e-12
    assert bool((upper | lower).all())
    assert abs(int(upper.sum()) - 2_500) < 4 * 5_000**0.5 / 2
    noisy = toys.moons(5_000, generator=0, dtype=torch.float64) - x
    assert_close(noisy[:, 0], noisy[:, 1])
    assert noisy.min() >= 0
    assert 0.59 < noisy.max() < 0.6


# --- the Schrödinger bridge -------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_static_bridge_factorises_like_the_reference(sigma):
    """The plan's log-density differs from -|x - y|²/2ε only by functions of x and of y."""
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=2.5, sigma=sigma)
    c = bridge.cross_cov
    joint = torch.cat([torch.cat([SOURCE.cov, c], 1), torch.cat([c.T, TARGET.cov], 1)])
    precision = torch.linalg.inv(joint)
    eye = torch.eye(2, dtype=torch.float64)
    assert_close(precision[:2, 2:], -eye / (sigma**2 * 2.5), rtol=1e-7, atol=1e-9)


def test_bridge_against_sinkhorn_on_a_grid():
    # One dimension, span 2, sigma 0.8: log-domain Sinkhorn on 400 nodes, cost ½|x − y|².
    source, target = toys.Gaussian([0.0], [[1.0]]), toys.Gaussian([1.0], [[0.36]])
    bridge = toys.GaussianBridge(source, target, span=2.0, sigma=0.8)
    grid = np.linspace(-7, 8, 400)
    a = np.exp(-0.5 * grid**2)
    b = np.exp(-0.5 * (grid - 1) ** 2 / 0.36)
    a, b = np.maximum(a, 1e-30), np.maximum(b, 1e-30)
    a, b = a / a.sum(), b / b.sum()
    cost = 0.5 * (grid[:, None] - grid[None, :]) ** 2
    plan = ot.sinkhorn(a, b, cost, 0.8**2 * 2.0, method="sinkhorn_log", stopThr=1e-12)
    cross = grid @ plan @ grid - (grid @ plan.sum(1)) * (grid @ plan.sum(0))
    assert float(bridge.cross_cov) == pytest.approx(cross, rel=1e-6)
    # Marginal at t = 0.7: mixture, over the plan, of Brownian bridges.
    s = 0.35
    mean = (1 - s) * grid[:, None] + s * grid[None, :]
    first = (plan * mean).sum()
    second = (plan * (mean**2 + 0.64 * 0.7 * 1.3 / 2.0)).sum()
    assert float(bridge.at(0.7).mean) == pytest.approx(first, rel=1e-6)
    assert float(bridge.at(0.7).cov) == pytest.approx(second - first**2, rel=1e-6)


def test_bridge_limits():
    still = toys.GaussianBridge(SOURCE, TARGET, sigma=0.0)
    assert_close(still.at(0.4).cov, gaussian_displacement(0.4, SOURCE, TARGET).cov)
    wild = toys.GaussianBridge(SOURCE, TARGET, sigma=1e6)
    # Independent ends; the leading term S0 S1 / ε survives the cancellation.
    assert_close(wild.cross_cov * 1e12, SOURCE.cov @ TARGET.cov, rtol=1e-6, atol=1e-6)


def test_bridge_starts_and_ends_at_its_laws():
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=3.0, sigma=0.7)
    for t, law in ((0.0, SOURCE), (3.0, TARGET)):
        assert_close(bridge.at(t).mean, law.mean)
        assert_close(bridge.at(t).cov, law.cov)


@pytest.mark.parametrize("sigma", [0.0, 1.2])
def test_bridge_velocity_carries_its_moments(sigma):
    """dm/dt = v(m) and dS/dt = GS + SGᵀ for v(x) = v(m) + G(x − m)."""
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=3.0, sigma=sigma)
    t, h = 1.1, 1e-4
    law, before, after = bridge.at(t), bridge.at(t - h), bridge.at(t + h)
    at_mean = bridge.velocity(t, law.mean[None])[0]
    unit = torch.eye(2, dtype=torch.float64)
    gradient = (bridge.velocity(t, law.mean + unit) - at_mean).T
    assert_close((after.mean - before.mean) / (2 * h), at_mean, rtol=1e-7, atol=1e-7)
    moment = gradient @ law.cov + law.cov @ gradient.T
    assert_close((after.cov - before.cov) / (2 * h), moment, rtol=1e-6, atol=1e-6)


def test_bridge_forward_drift_is_the_conditional_mean_of_its_pins():
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=3.0, sigma=1.2)
    s, c = 0.4, bridge.cross_cov
    law = bridge.at(3.0 * s)
    x = law.sample(7, generator=0)
    cov_end_now = (1 - s) * c.T + s * TARGET.cov
    end = TARGET.mean + (x - law.mean) @ torch.linalg.inv(law.cov) @ cov_end_now.T
    drift = bridge.dynamics().drift(torch.tensor(3.0 * s, dtype=torch.float64), x)
    assert_close(drift, (end - x) / (3.0 * (1 - s)))


def test_bridge_dynamics_are_differentiable_and_keep_dtype():
    bridge = toys.GaussianBridge(SOURCE, TARGET, sigma=0.5)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((5,), 0.3)
    dynamics = bridge.dynamics()
    assert dynamics.velocity(t, x).dtype == dynamics.score(t, x).dtype == torch.float32
    at_zero = bridge.velocity(0.3, torch.zeros(1, 2))
    slope = (bridge.velocity(0.3, torch.eye(2)) - at_zero).diag().sum()
    assert_close(divergence(dynamics.velocity, t, x), slope.expand(5), rtol=1e-5, atol=1e-5)
    assert_close(dynamics.velocity(torch.tensor(1.0 + 1e-7), x), bridge.velocity(1.0, x))
    with pytest.raises(ValueError, match="`t`: got different times, expected one time"):
        dynamics.velocity(torch.linspace(0, 1, 5), x)
    with pytest.raises(ValueError, match=r"`t`: got 1.5, expected a finite number"):
        bridge.at(1.5)


# --- bad input --------------------------------------------------------------------------------


def test_bad_input_says_what_was_expected():
    with pytest.raises(ValueError, match=r"`cov`: got an asymmetric matrix, expected a symmetric"):
        toys.Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="`cov`: got a lowest eigenvalue of -1, expected a pos"):
        toys.Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match=r"`cov`: got shape \(1, 2\), expected shape \(2, 2\)"):
        toys.Gaussian([0.0, 0.0], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"`mean`: got shape \(1, 2\), expected shape \(d,\)"):
        toys.Gaussian([[0.0, 0.0]], [[1.0]])
    line = toys.Gaussian([0.0], [[1.0]])
    with pytest.raises(ValueError, match="`target`: got 1 dimensions, expected 2 as in `source`"):
        toys.GaussianBridge(SOURCE, line)
    flat = toys.Gaussian([0.0], [[0.0]])
    with pytest.raises(ValueError, match="`source`: got a singular covariance"):
        toys.GaussianBridge(flat, line)
    with pytest.raises(ValueError, match="`sigma`: got -1"):
        toys.GaussianBridge(line, line, sigma=-1)


@pytest.mark.parametrize(
    ("name", "value"), [("n", 0), ("n", 2.5), ("period", 0.0), ("period", [1])]
)
def test_a_cycle_that_cannot_be_is_refused(name, value):
    given = {"n": 3, "period": 1.0} | {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        toys.cycle(given.pop("n"), [0.0, 1.0], **given)
