"""Laws of the stochastic solvers, against closed forms and an independent integrator."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import kstest

import cases
from cellflow.dynamics import Dynamics
from cellflow.simulate import SOLVERS, simulate
from cellflow.simulate.field import RescaledField
from cellflow.simulate.noise import BLOCK, Increments, Noise
from cellflow.toys import Gaussian, GaussianBridge
from clouds import normal

KAPPA, SIGMA, N = 1.3, 0.7, 20_000
Z = 4.5  # standard errors: with a few hundred comparisons, a chance of 1 in 500 for each seed


@pytest.fixture(params=list(cases.NOISY_SOLVERS))
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


def drifting(drift, sigma: float, **fields) -> Dynamics:
    """Dynamics of a given drift: a score of zero leaves the velocity to be the drift."""
    return Dynamics(drift, lambda t, x: torch.zeros_like(x), sigma=sigma, **fields)


def assert_moments(x: torch.Tensor, mean, cov, *, bias: float = 0.0) -> None:
    """Mean and covariance of `x` ``(n, d)`` within Z standard errors, and the solver's bias."""
    mean, cov = torch.as_tensor(mean).double(), torch.as_tensor(cov).double()
    variance = cov.diagonal()
    off = (x.mean(0) - mean).abs()
    assert bool((off < Z * (variance / len(x)).sqrt() + bias).all()), off
    error = ((variance[:, None] * variance + cov**2) / len(x)).sqrt()
    off = (x.T.cov() - cov).abs()
    assert bool((off < Z * error + bias).all()), off


def coarsen(noise: Increments, k: int) -> Increments:
    """Increments ``(steps, n, 1)`` of `k` times longer steps on the same Brownian motion."""
    parts = noise.total.unflatten(0, (-1, k))
    before = parts.cumsum(1) - parts
    return Increments(parts.sum(1), (before + noise.mean.unflatten(0, (-1, k))).mean(1))


def end_of_path(name: str, dynamics: Dynamics, x: torch.Tensor, noise: Increments) -> torch.Tensor:
    field = RescaledField(dynamics, 0.0, 1.0, noisy=True)
    steps = len(noise.total)
    for i in range(steps):
        dw = Increments(noise.total[i], noise.mean[i])
        u = i / steps
        x = SOLVERS[name].noisy_step(field, x, field(u, x), u=u, h=1 / steps, noise=dw)
    return x


def strong_rates(name: str, dynamics: Dynamics, noise: Increments, exact: torch.Tensor) -> list:
    x0, fine = torch.full_like(exact, 0.5), len(noise.total)
    ends = [end_of_path(name, dynamics, x0, coarsen(noise, fine // k)) for k in (8, 16, 32, 64)]
    errors = [(x - exact).square().mean().sqrt() for x in ends]
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def brownian(steps: int, sigma: float, n: int = 4000) -> Increments:
    w, other = sigma * math.sqrt(1 / steps) * normal(2, steps, n, 1)
    return Increments(w, w / 2 + other / math.sqrt(12))


# --- order -----------------------------------------------------------------------------------


def test_strong_order_on_an_ornstein_uhlenbeck_process(solver: str) -> None:
    # The exact path, its Brownian motion and that one's integral are jointly normal.
    h = 1 / 64
    decay = math.exp(-KAPPA * h)
    with_total = (1 - decay) / KAPPA
    with_mean = (1 - decay * (1 + KAPPA * h)) / KAPPA**2 / h
    cov = torch.tensor(
        [
            [h, h / 2, with_total],
            [h / 2, h / 3, with_mean],
            [with_total, with_mean, (1 - decay**2) / (2 * KAPPA)],
        ],
        dtype=torch.float64,
    )
    total, mean, pulse = (normal(64, 2000, 1, 3) @ torch.linalg.cholesky(cov).T).unbind(-1)
    exact = torch.full((2000, 1), 0.5, dtype=torch.float64)
    for i in range(64):
        exact = decay * exact + pulse[i]
    dynamics = drifting(lambda t, x: -KAPPA * x, 1.0)
    rates = strong_rates(solver, dynamics, Increments(total, mean), exact)
    # The error of order 1.5 is the drift's curvature, and here is none.
    order = {"sra1": 2.0}.get(solver, cases.NOISY_SOLVERS[solver])
    assert rates == pytest.approx([order] * 3, abs=0.2)


def test_strong_order_on_a_nonlinear_time_dependent_drift(solver: str) -> None:
    dynamics = drifting(lambda t, x: torch.cos(3 * x) + torch.cos(3 * t), 1.3)
    noise = brownian(1024, 1.3)
    # A 16th of the finest step leaves a 64th of its error to the reference.
    exact = end_of_path("sra1", dynamics, torch.full((4000, 1), 0.5).double(), noise)
    rates = strong_rates(solver, dynamics, noise, exact)
    assert rates == pytest.approx([cases.NOISY_SOLVERS[solver]] * 3, abs=0.2)


def test_increments_and_bridges_have_the_law_of_brownian_motion() -> None:
    n, scale = 50 * BLOCK + 7, 0.4
    noise = Noise(5, 0, torch.zeros(n, 2, dtype=torch.float64), dim=1)
    first, second = noise.increments(scale), noise.increments(scale)
    assert not first.total[:, 1].any()
    assert not first.mean[:, 1].any()
    drawn = torch.stack([first.total, first.mean, second.total, second.mean])[..., 0].T
    pair = torch.tensor([[1, 1 / 2], [1 / 2, 1 / 3]], dtype=torch.float64) * scale**2
    assert_moments(drawn, torch.zeros(4), torch.block_diag(pair, pair))
    theta = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    bridge = noise.bridge(theta, scale)[..., 0].T
    cov = torch.minimum(theta[:, None], theta) - theta[:, None] * theta
    assert_moments(bridge, torch.zeros(3), cov * scale**2)
    ends = noise.bridge(torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64), scale)[1:]
    assert not ends.any()  # two times that round to the next step
    blocks = first.total[: 50 * BLOCK, 0].reshape(50, BLOCK).T / scale
    assert (blocks.T.corrcoef() - torch.eye(50)).abs().max() < 5 / math.sqrt(BLOCK)


# --- laws ------------------------------------------------------------------------------------

MATRIX = torch.tensor([[-1.0, 2.0], [-0.5, -0.4]], dtype=torch.float64)


def ornstein_uhlenbeck(t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Propagator over `t` and covariance for unit diffusion, by the exponential of Van Loan."""
    block = torch.zeros(4, 4, dtype=torch.float64)
    block[:2, :2], block[:2, 2:], block[2:, 2:] = -MATRIX, torch.eye(2), MATRIX.T
    power = torch.linalg.matrix_exp(block * t)
    flow = power[2:, 2:].T
    return flow, flow @ power[:2, 2:]


def test_ornstein_uhlenbeck_has_its_moments_at_and_between_steps(solver: str) -> None:
    x0 = torch.tensor([1.5, -1.0], dtype=torch.float64)
    dynamics = drifting(lambda t, x: x @ MATRIX.T, SIGMA)
    times = [2.0, 2.013, 2.25, 2.2571, 2.259, 3.0, 4.5]
    step = {1.0: 0.005, 1.5: 0.05}[cases.NOISY_SOLVERS[solver]]
    path = simulate(dynamics, x0.expand(N, 2), times, solver=solver, max_step=step)
    for time, x in zip(times[1:], path.x[1:], strict=True):
        flow, cov = ornstein_uhlenbeck(time - 2)
        assert_moments(x, flow @ x0, SIGMA**2 * cov, bias=2e-3)
    # Two times inside of one step are one path: its covariance over time.
    (_, at), (flow, _) = ornstein_uhlenbeck(0.2571), ornstein_uhlenbeck(0.0019)
    cross = (path.x[3] - path.x[3].mean(0)).T @ path.x[4] / N
    torch.testing.assert_close(cross, SIGMA**2 * at @ flow.T, rtol=0.1, atol=0.01)
    increment_cov = ornstein_uhlenbeck(0.0019)[1] * SIGMA**2
    assert_moments(path.x[4] - path.x[3] @ flow.T, torch.zeros(2), increment_cov, bias=5e-5)


def cosh_law(t: float) -> Dynamics:
    """Velocity and score of dX = tanh(X) dt + dW from 0: half N(t, t) and half N(-t, t)."""

    def score(t, x):
        return torch.tanh(x) - x / t

    return Dynamics(lambda t, x: torch.tanh(x) - score(t, x) / 2, score, sigma=1.0)


def cosh_cdf(t: float):
    def cdf(x):
        standard = torch.special.ndtr
        x = torch.as_tensor(x)
        return (standard((x - t) / t**0.5) + standard((x + t) / t**0.5)).numpy() / 2

    return cdf


@pytest.mark.parametrize("name", ["rk4", *cases.NOISY_SOLVERS])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_ode_and_sde_share_the_marginals_of_a_nonlinear_law(name: str, backward: bool) -> None:
    times = [3.0, 1.7, 1.0] if backward else [1.0, 1.7, 3.0]
    x0 = normal(N, 1) * times[0] ** 0.5 + times[0] * normal(N, 1, seed=1).sign()
    path = simulate(cosh_law(1), x0, times, solver=name, max_step=0.02, generator=7)
    for time, x in zip(times, path.x, strict=True):
        distance = kstest(x[:, 0].numpy(), cosh_cdf(time)).statistic
        assert distance < 2.2 / math.sqrt(N)  # exceeded once in 8,000 draws
    # Reversing the ODE keeps the cells' order; noise does not.
    kept = torch.equal(path.x[0, :, 0].argsort(), path.final[:, 0].argsort())
    assert kept is (name == "rk4")


BRIDGE = GaussianBridge(
    Gaussian([0.0, 1.0], [[1.0, 0.6], [0.6, 0.8]]),
    Gaussian([2.0, -1.0], [[0.5, -0.3], [-0.3, 0.9]]),
    span=2.5,
    sigma=0.9,
)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_bridge_reaches_every_marginal_and_the_joint_law(solver: str, backward: bool) -> None:
    times = [0.0, 0.2, 1.1, 2.4, 2.5]
    start = BRIDGE.target if backward else BRIDGE.source
    x0 = start.sample(N, generator=3).float()
    if backward:
        times = times[::-1]
    step = {1.0: 0.01, 1.5: 0.05}[cases.NOISY_SOLVERS[solver]]
    path = simulate(BRIDGE.dynamics(), x0, times, solver=solver, max_step=step, generator=4)
    for time, x in zip(times, path.x, strict=True):
        law = BRIDGE.at(time)
        assert_moments(x, law.mean, law.cov, bias=5e-3)
    ends = torch.cat([path.x[-1], path.x[0]] if backward else [path.x[0], path.x[-1]], dim=1)
    rows = [
        torch.cat([BRIDGE.source.cov, BRIDGE.cross_cov], dim=1),
        torch.cat([BRIDGE.cross_cov.T, BRIDGE.target.cov], dim=1),
    ]
    means = torch.cat([BRIDGE.source.mean, BRIDGE.target.mean])
    assert_moments(ends, means, torch.cat(rows), bias=5e-3)


def test_agrees_in_law_with_torchsde(solver: str) -> None:
    torchsde = pytest.importorskip("torchsde")

    class Pendulum(torch.nn.Module):
        noise_type, sde_type = "additive", "ito"

        def f(self, t, x):
            return torch.stack([x[:, 1], torch.sin(x[:, 0]) - 0.5 * x[:, 1] + torch.cos(t)], dim=1)

        def g(self, t, x):
            return (0.6 * torch.eye(2, dtype=x.dtype)).expand(len(x), 2, 2)

    sde, n = Pendulum(), 5000
    x0, ends = normal(n, 2, seed=2), torch.tensor([0.0, 2.0], dtype=torch.float64)
    motion = torchsde.BrownianInterval(
        0.0, 2.0, size=(n, 2), dtype=torch.float64, entropy=1, levy_area_approximation="space-time"
    )
    other = torchsde.sdeint(sde, x0, ends, bm=motion, dt=0.02, method="srk")[-1]
    ours = simulate(drifting(sde.f, 0.6), x0, ends, solver=solver, max_step=0.01).final
    for mix in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]):
        direction = torch.tensor(mix, dtype=torch.float64)
        distance = kstest((ours @ direction).numpy(), (other @ direction).numpy()).statistic
        assert distance < 2.2 * math.sqrt(2 / n)
