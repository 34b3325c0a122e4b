"""Reverse processes of the diffusions from noise hit their marginals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cellflow.dynamics import Dynamics
from cellflow.paths import VarianceExploding, VariancePreserving
from cellflow.simulate import SOLVERS, simulate
from cellflow.training.networks import PredictedField

MEAN, SPREAD, CELLS = 1.0, 0.5, 8000
PATHS = {"vp": VariancePreserving(), "ve": VarianceExploding(sigma_min=0.05, sigma_max=8.0)}


def gaussian(path) -> tuple[Dynamics, PredictedField]:
    """Exact dynamics of a Gaussian target: its noise in expectation, in place of a network."""
    field = PredictedField(lambda t, x: x, path, "noise", 0.0, 1.0)

    def noise(t, seen):
        _, (a, b, _, _) = field.predicted(t, seen)
        x = seen * torch.hypot(a, b)
        return b * (x - a * MEAN) / (a**2 * SPREAD**2 + b**2)

    exact = PredictedField(noise, path, "noise", 0.0, 1.0)
    *_, score = exact.parts
    return Dynamics(exact, score, sigma=exact.diffusion), exact


def law(path, s: float) -> tuple[float, float]:
    """Mean and standard deviation of the population at fraction `s`."""
    _, (a, b, _, _) = gaussian(path)[1].predicted(torch.tensor(s), torch.zeros(1, 1))
    return float(a) * MEAN, float((a**2 * SPREAD**2 + b**2).sqrt())


@pytest.mark.parametrize("solver", ["euler_maruyama", "sra1", "predictor_corrector", "rk4"])
@pytest.mark.parametrize("name", PATHS)
def test_reverse_process_hits_its_marginals(name: str, solver: str) -> None:
    """Means and variances within four standard errors and the error of the steps."""
    path = PATHS[name]
    times, step = [0.0, 0.5, 0.8, 0.999], 1 / (400 if SOLVERS[solver].order == 1 else 100)
    mean, std = law(path, 0.0)
    generator = torch.Generator().manual_seed(3)
    x0 = mean + std * torch.randn(CELLS, 1, generator=generator, dtype=torch.float64)
    dynamics, _ = gaussian(path)
    out = simulate(dynamics, x0, times, solver=solver, max_step=step, generator=4)
    for x, time in zip(out.x[1:], times[1:], strict=True):
        mean, std = law(path, time)
        allowed = 4 / CELLS**0.5 + 0.01 * (solver in ("euler_maruyama", "predictor_corrector"))
        assert abs(float(x.mean()) - mean) < allowed * std
        assert abs(float(x.var()) / std**2 - 1) < 2**0.5 * allowed


def test_process_run_backward_returns_to_the_noise() -> None:
    path = PATHS["vp"]
    dynamics, _ = gaussian(path)
    mean, std = law(path, 0.9)
    generator = torch.Generator().manual_seed(5)
    x0 = mean + std * torch.randn(CELLS, 1, generator=generator, dtype=torch.float64)
    out = simulate(dynamics, x0, [0.9, 0.3], solver="sra1", max_step=1 / 100, generator=6).final
    mean, std = law(path, 0.3)
    assert abs(float(out.mean()) - mean) < 4 * std / CELLS**0.5
    assert abs(float(out.var()) / std**2 - 1) < 4 * (2 / CELLS) ** 0.5


def test_corrector_draws_a_wrong_spread_back() -> None:
    """From noise that is a tenth too wide, it comes closer than the prediction alone."""
    path = PATHS["ve"]
    dynamics, _ = gaussian(path)
    mean, std = law(path, 0.5)
    generator = torch.Generator().manual_seed(7)
    x0 = mean + 1.5 * std * torch.randn(CELLS, 1, generator=generator, dtype=torch.float64)
    error = {}
    for solver in ("euler_maruyama", "predictor_corrector"):
        out = simulate(dynamics, x0, [0.5, 0.6], solver=solver, max_step=0.005, generator=8).final
        error[solver] = abs(float(out.std()) / law(path, 0.6)[1] - 1)
    assert error["predictor_corrector"] < 0.7 * error["euler_maruyama"]


def test_corrector_keeps_the_law_where_mass_grows() -> None:
    rest = Dynamics(lambda t, x: 0 * x, lambda t, x: -x, lambda t, x: t + 0 * x[:, 0], sigma=0.7)
    generator = torch.Generator().manual_seed(10)
    x0 = torch.randn(CELLS, 2, generator=generator, dtype=torch.float64)
    out = simulate(rest, x0, [0.0, 2.0], solver="predictor_corrector", max_step=0.02, generator=11)
    torch.testing.assert_close(out.log_mass[-1], torch.full_like(x0[:, 0], 2.0), rtol=0.02, atol=0)
    allowed = 4 * (2 / CELLS) ** 0.5 + 0.01
    torch.testing.assert_close(out.final.T.cov(), torch.eye(2).double(), rtol=0, atol=allowed)


def test_diffusion_may_be_a_function_of_time() -> None:
    """Brownian motion with sigma² = 2 t has variance t² at t; one number for each cell as well."""
    still = Dynamics(lambda t, x: 0 * x, lambda t, x: 0 * x, sigma=lambda t: (2 * t).sqrt())
    x0 = torch.zeros(CELLS, 1, dtype=torch.float64)
    out = simulate(still, x0, [0.0, 1.0, 2.0], solver="euler_maruyama", generator=9)
    for x, time in zip(out.x[1:], (1.0, 2.0), strict=True):
        assert abs(float(x.var()) / time**2 - 1) < 4 * (2 / CELLS) ** 0.5
    tilted = Dynamics(lambda t, x: x, lambda t, x: -x, sigma=lambda t: t)
    t, x = torch.tensor([1.0, 2.0]), torch.ones(2, 3)
    torch.testing.assert_close(tilted.drift(t, x), (1 - 0.5 * t**2)[:, None].expand(2, 3))


@pytest.mark.parametrize("name", PATHS)
def test_an_interval_of_another_length_has_another_clock(name: str) -> None:
    """Three units of time from 2 on: velocities a third as fast, variance a third as much."""
    dynamics, field = gaussian(PATHS[name])
    later = replace(field, start=2.0, end=5.0, net=lambda t, x: field.net((t - 2) / 3, x))
    slow = Dynamics(later, later.parts[1], sigma=later.diffusion)
    x, s = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], torch.tensor(0.4).double()
    torch.testing.assert_close(slow.score(2 + 3 * s, x), dynamics.score(s, x))
    for part in ("velocity", "drift", "reverse_drift"):
        found, expected = getattr(slow, part)(2 + 3 * s, x), getattr(dynamics, part)(s, x)
        torch.testing.assert_close(3 * found, expected)
    torch.testing.assert_close(3 * slow.sigma(2 + 3 * s) ** 2, dynamics.sigma(s) ** 2)
