"""Mass under noise, what noise depends on, and what stochastic solvers refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import cases
from cellflow.dynamics import Dynamics
from cellflow.simulate import IntegrationError, Limits, simulate
from cellflow.simulate.noise import BLOCK
from clouds import normal

KAPPA, SIGMA, N = 1.3, 0.7, 20_000
Z = 4.5  # standard errors


@pytest.fixture(params=list(cases.NOISY_SOLVERS))
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


def zero(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x)


def wave(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * x) - x + t


# --- mass ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rk4", *cases.NOISY_SOLVERS])
@pytest.mark.parametrize("times", [[1.0, 1.3, 2.5], [2.5, 1.3, 1.0]], ids=["up", "down"])
def test_constant_birth_gives_the_same_mass_to_all(name: str, times: list[float]) -> None:
    dynamics = Dynamics(wave, zero, lambda t, x: torch.full_like(x[:, 0], 0.8), sigma=1.0)
    path = simulate(dynamics, normal(300, 2), times, solver=name)
    exact = 0.8 * (path.times - times[0])[:, None].expand(3, 300)
    torch.testing.assert_close(path.log_mass, exact)


def test_log_mass_is_the_integral_along_the_noisy_path(solver: str) -> None:
    # Of an Ornstein-Uhlenbeck process from 1.5: jointly normal with the end of the path.
    end, x0 = 2.0, 1.5
    dynamics = Dynamics(lambda t, x: -KAPPA * x, zero, lambda t, x: 0.3 + x[:, 0], sigma=SIGMA)
    start = torch.full((N, 1), x0, dtype=torch.float64)
    step = {1.0: 0.01, 1.5: 0.05}[cases.NOISY_SOLVERS[solver]]
    path = simulate(dynamics, start, [0.0, end], solver=solver, max_step=step)
    decay, rate = math.exp(-KAPPA * end), SIGMA**2 / KAPPA**2
    mean = 0.3 * end + x0 * (1 - decay) / KAPPA
    variance = rate * (end - 2 * (1 - decay) / KAPPA + (1 - decay**2) / (2 * KAPPA))
    with_end = rate * ((1 - decay) - (1 - decay**2) / 2)
    end_variance = SIGMA**2 * (1 - decay**2) / (2 * KAPPA)
    log_mass, bias = path.log_mass[-1], 0.01
    assert abs(log_mass.mean() - mean) < Z * math.sqrt(variance / N) + bias
    assert abs(log_mass.var() - variance) < Z * variance * math.sqrt(2 / N) + bias
    cross = torch.stack([log_mass, path.final[:, 0]]).cov()[0, 1]
    error = math.sqrt((variance * end_variance + with_end**2) / N)
    assert abs(cross - with_end) < Z * error + bias
    # The mass of the whole: the exponential of a normal variable.
    total, of_total = math.exp(mean + variance / 2), math.sqrt(math.expm1(variance) / N)
    assert abs(path.mass[-1].mean() / total - 1) < Z * of_total + 2 * bias


@pytest.mark.parametrize("name", ["rk4", *cases.NOISY_SOLVERS])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_ode_and_sde_share_marginals_under_birth_and_death(name: str, backward: bool) -> None:
    # A constant velocity and a growth linear in x keep a normal law normal: of constant
    # variance, its mean drawn to where cells divide.
    velocity, base, slope, variance, end = 0.4, -0.2, 0.6, 0.8, 2.0

    def mean(t: float | torch.Tensor) -> float | torch.Tensor:
        return 1.0 + (velocity + variance * slope) * t

    def log_total(t: float) -> float:
        return (base + slope) * t + slope * (velocity + variance * slope) * t**2 / 2

    dynamics = Dynamics(
        lambda t, x: torch.full_like(x, velocity),
        lambda t, x: -(x - mean(t)) / variance,
        lambda t, x: base + slope * x[:, 0],
        sigma=0.9,
    )
    times = [end, 0.7, 0.0] if backward else [0.0, 0.7, end]
    x0 = mean(times[0]) + math.sqrt(variance) * normal(N, 1, seed=4)
    path = simulate(dynamics, x0, times, solver=name, max_step=0.02)
    for time, x, mass in zip(times[1:], path.x[1:, :, 0], path.mass[1:], strict=True):
        total = mass.mean()
        expected = math.exp(log_total(time) - log_total(times[0]))
        assert abs(total - expected) < Z * mass.std() / math.sqrt(N) + 0.01 * expected
        for moment, exact in ((x, mean(time)), ((x - mean(time)) ** 2, variance)):
            error = (mass / total * (moment - exact)).std() / math.sqrt(N)
            assert abs((mass * moment).mean() / total - exact) < Z * error + 0.01


# --- noise -----------------------------------------------------------------------------------

NOISY = Dynamics(wave, lambda t, x: -x, lambda t, x: x[:, 0] * t, sigma=0.8)


@pytest.mark.parametrize("memory", [1, 100_000, 5_000_000])
def test_states_equal_to_the_bit_whatever_the_chunks(solver: str, memory: int) -> None:
    n = 2 * BLOCK + 30 if memory > 1 else 9
    x0, times, sizes = normal(n, 3), [0, 0.41, 0.42, 1], []
    watched = Dynamics(
        lambda t, x: sizes.append(len(x)) or wave(t, x), NOISY.score, NOISY.growth, sigma=0.8
    )
    whole = simulate(NOISY, x0, times, solver=solver)
    parts = simulate(watched, x0, times, solver=solver, limits=Limits(memory=memory))
    assert torch.equal(parts.x, whole.x)
    assert torch.equal(parts.log_mass, whole.log_mass)
    assert max(sizes) < n
    # Nor does the number of cells.
    few = simulate(NOISY, x0[: n // 2], times, solver=solver)
    assert torch.equal(few.x, whole.x[:, : n // 2])


def test_noise_is_a_function_of_the_seed_alone(solver: str) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    x0 = torch.zeros(40, 2)

    def final(generator: object) -> torch.Tensor:
        return simulate(NOISY, x0, [0, 1], solver=solver, generator=generator).final

    assert torch.equal(final(0), simulate(NOISY, x0, [0, 1], solver=solver).final)
    assert torch.equal(final(torch.Generator().manual_seed(3)), final(3))
    assert torch.equal(final(np.random.default_rng(3)), final(np.random.default_rng(3)))
    for make in (lambda: 1, lambda: None, lambda: np.random.default_rng(3)):
        assert not torch.equal(final(0), final(make()))
    used = torch.Generator().manual_seed(3)
    assert not torch.equal(final(used), final(used))
    assert len(final(0).unique(dim=0)) == 40  # each cell has its own
    assert final(0).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_steps_do_not_depend_on_the_output_times(solver: str) -> None:
    x0 = normal(50, 2)
    few = simulate(NOISY, x0, [0, 0.5, 1], solver=solver)
    many = simulate(NOISY, x0, torch.linspace(0, 1, 401), solver=solver)
    assert torch.equal(many.x[[0, 200, 400]], few.x)
    assert many.n_evaluations == few.n_evaluations == round(32 * cases.SOLVERS[solver])
    assert torch.isfinite(many.x).all()
    # Between the steps paths are as rough as Brownian motion.
    rough = many.x.diff(dim=0).square().sum((0, 2)).mean()
    assert float(rough) == pytest.approx(2 * 0.8**2, rel=0.1)


def test_stochastic_solver_without_diffusion_solves_the_ode(solver: str) -> None:
    x0 = normal(5, 2)
    still = Dynamics(wave, None, sigma=0.0)
    one, other = (simulate(still, x0, [0, 1], solver=solver, generator=s).final for s in (0, 1))
    assert torch.equal(one, other)
    plain = simulate(still, x0, [0, 1], max_step=0.01).final
    torch.testing.assert_close(one, plain, rtol=0, atol=0.1)


# --- what is refused -------------------------------------------------------------------------


def test_noise_without_a_score_raises_with_a_remedy(solver: str) -> None:
    blind = Dynamics(wave, sigma=0.5)
    words = rf"`dynamics.score`: got None, expected a score, which '{solver}' .* solver='rk4'"
    with pytest.raises(ValueError, match=words):
        simulate(blind, torch.ones(3, 2), [0, 1], solver=solver)
    assert torch.isfinite(simulate(blind, torch.ones(3, 2), [0, 1]).final).all()


BAD = {
    r"`dynamics.score`: got shape \(3, 1\), expected shape \(3, 2\)": {
        "score": lambda t, x: x[:, :1]
    },
    r"`dynamics.drift`: got values of torch.float64, expected torch.float32": {
        "score": lambda t, x: x.double()
    },
    r"`dynamics.growth`: got shape \(3, 2\), expected shape \(3,\)": {"growth": wave},
}


@pytest.mark.parametrize("words", list(BAD))
def test_bad_fields_are_named(solver: str, words: str) -> None:
    dynamics = Dynamics(**({"velocity": wave, "score": zero, "sigma": 1.0} | BAD[words]))
    with pytest.raises(ValueError, match=words):
        simulate(dynamics, torch.ones(3, 2), [0, 1], solver=solver)


@pytest.mark.parametrize("times", [[0, 8], [8, 0]], ids=["forward", "backward"])
def test_diverging_drift_raises_with_the_time(solver: str, times: list[float]) -> None:
    sign = 1 if times[1] else -1
    blow_up = Dynamics(lambda t, x: sign * x**3, zero, sigma=1.0)
    with pytest.raises(IntegrationError, match=r"stopped at time .*: NaN or infinite"):
        simulate(blow_up, torch.full((3, 1), 3.0), times, solver=solver)
    hole = Dynamics(lambda t, x: torch.where(abs(t - 4) < 1, torch.nan, x), zero, sigma=1.0)
    with pytest.raises(IntegrationError, match=r"NaN or infinite values in 3 of 3 cells"):
        simulate(hole, torch.ones(3, 1), times, solver=solver)


def test_progress_reaches_its_end(solver: str, capsys: pytest.CaptureFixture[str]) -> None:
    split = Dynamics(wave, zero, sigma=1.0, breaks=(0.3, 0.7))
    simulate(split, torch.ones(3, 3), [0, 1], solver=solver, limits=Limits(memory=1), progress=True)
    assert "simulate: 100%" in capsys.readouterr().err
