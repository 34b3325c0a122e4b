"""Predictions on paths from noise are one another in disguise."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from cases import FROM_NOISE
from cellflow.objectives.velocity import prediction_matching
from cellflow.paths import Pairs, Path
from cellflow.paths.prediction import PREDICTIONS, Mix


def shares(path: Path, s: float) -> Mix:
    at = torch.tensor([[s]], dtype=torch.float64)
    return Mix.of(path, at, at)


@pytest.mark.parametrize("s", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("path", FROM_NOISE.values(), ids=FROM_NOISE)
def test_every_prediction_returns_from_every_other(path: Path, s: float) -> None:
    generator = torch.Generator().manual_seed(0)
    value, x = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    mix = shares(path, s)
    for one, other in product(PREDICTIONS, PREDICTIONS):
        there = mix.convert(value, x, given=one, wanted=other)
        assert_close(mix.convert(there, x, given=other, wanted=one), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", FROM_NOISE.values(), ids=FROM_NOISE)
def test_conversion_of_the_noise_gives_what_was_mixed(path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    y, z = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    t = torch.zeros(6, 1, dtype=torch.float64)
    s = torch.full_like(t, 0.3)
    point, mix = path.at(Pairs(y, y, t, t + 1), s, z), shares(path, 0.3)
    assert_close(mix.convert(z, point.x, given="noise", wanted="target"), y)
    assert_close(mix.convert(z, point.x, given="noise", wanted="velocity"), point.velocity)
    assert_close(mix.convert(z, point.x, given="noise", wanted="score"), -z / point.std)


@pytest.mark.parametrize("s", [0.2, 0.8])
@pytest.mark.parametrize("name", [n for n, p in FROM_NOISE.items() if not p.heavy_tailed])
def test_regression_on_any_prediction_gives_the_velocity_of_a_gaussian(name, s) -> None:
    """Expectations are affine in the state; by least squares all predictions agree to rounding."""
    path, n = FROM_NOISE[name], 100_000
    generator = torch.Generator().manual_seed(2)
    z, e = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    mean, spread = 1.5, 0.7
    mix = a, b, da, db = shares(path, s)
    y = mean + spread * e
    x = a * y + b * z
    design = torch.cat([torch.ones_like(x), x], 1)
    probe = a * mean + (a**2 * spread**2 + b**2).sqrt() * torch.tensor([[-1.0], [0.0], [2.0]])
    # E[y | x] of two joint Gaussians, and z from it.
    gain = a * spread**2 / (a**2 * spread**2 + b**2)
    target = mean + gain * (probe - a * mean)
    expected = da * target + db * (probe - a * target) / b
    for predict in PREDICTIONS:
        wanted = mix.convert(z, x, given="noise", wanted=predict)
        weights = torch.linalg.lstsq(design, wanted).solution
        found = torch.cat([torch.ones_like(probe), probe], 1) @ weights
        velocity = mix.convert(found, probe, given=predict, wanted="velocity")
        residual = (mix.convert(z, x, given="noise", wanted="velocity")).std()
        assert_close(velocity, expected, rtol=0, atol=float(4 * residual * (5 / n) ** 0.5))


@pytest.mark.parametrize("path", FROM_NOISE.values(), ids=FROM_NOISE)
def test_losses_weigh_noise_alike_at_all_times(path: Path) -> None:
    """That of a score is the noise's; that of a target divides by what the state leaves open."""
    generator = torch.Generator().manual_seed(3)
    y, z, found = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    t = torch.zeros(6, 1, dtype=torch.float64)
    point, mix = path.at(Pairs(y, y, t, t + 1), t + 0.3, z), shares(path, 0.3)
    open_share = mix.sigma**2 / (mix.alpha**2 + mix.sigma**2)
    expected = {
        "score": (mix.sigma * found + z).square().mean(),
        "target": ((found - y).square() / open_share).mean(),
        "noise": (found - z).square().mean(),
    }
    for predict, loss in expected.items():
        assert_close(prediction_matching(found, point, mix, predict=predict), {predict: loss})
