"""Chunks side by side, steps from knot to knot, and readouts."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from cellflow.dynamics import Dynamics
from cellflow.networks import MLP, MLPConfig, Units
from cellflow.paths import BrownianBridge
from cellflow.simulate import SOLVERS, Limits, Output, noise, simulate
from cellflow.simulate.integration import Integration
from cellflow.simulate.job import CACHED, Job
from cellflow.simulate.noise import BLOCK, Noise
from cellflow.simulate.simulate import simulate_as
from cellflow.training.networks import BridgeVelocity


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


UNITS = Units((0.0, 0.0, 0.0))


def network(answer: str = "velocity", width: int = 32, seed: int = 0) -> MLP:
    return MLP(UNITS, MLPConfig(width), answer=answer, generator=seed).float()


SMALL = Dynamics(network(), network("score"), network("growth"), sigma=0.5)
TIMES = [0.0, 0.41, 1.0]


# --- chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["rk4", "sra1", "dopri5"])
def test_states_equal_to_the_bit_whatever_the_threads(solver: str) -> None:
    seen = set()

    class Watched(MLP):
        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            seen.add((threading.get_ident(), torch.get_num_threads()))
            return super().forward(t, x)

    field = Watched(UNITS, MLPConfig(32)).float()
    dynamics = Dynamics(field, SMALL.score, SMALL.growth, sigma=0.5)
    x0 = normal(2 * CACHED + 100, 3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            seen.clear()
            results.append(simulate(dynamics, x0, TIMES, solver=solver, max_step=0.25))
            assert min(threads, 2) <= len({ident for ident, _ in seen}) <= threads
            assert {number for _, number in seen} == {1}
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, three = results
    assert torch.equal(one.x, three.x)
    assert torch.equal(one.log_mass, three.log_mass)
    assert one.n_evaluations == three.n_evaluations


def test_failing_chunk_ends_the_others() -> None:
    class Broken(MLP):
        calls = 0

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            Broken.calls += 1
            if Broken.calls == 5:
                raise RuntimeError("a broken field")
            return super().forward(t, x)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        field = Broken(UNITS, MLPConfig(8)).float()
        with pytest.raises(RuntimeError, match="a broken field"):
            simulate(Dynamics(field), normal(40 * CACHED, 3), [0, 1], max_step=0.1)
    finally:
        torch.set_num_threads(before)
    assert Broken.calls < 40 * 40 / 2


def test_job_is_small_if_all_fields_are_small_networks() -> None:
    def is_small(*fields, **options) -> bool:
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return Job.prepare(
            Dynamics(*fields, **options), normal(2, 3), times, how=Integration()
        ).small

    bridge = BridgeVelocity(network(), SMALL.score, BrownianBridge(0.3), (0.0, 1.0))
    assert is_small(SMALL.velocity, SMALL.score, SMALL.growth, sigma=0.5)
    assert is_small(bridge, SMALL.score, sigma=0.3)
    assert not is_small(lambda t, x: -x)
    assert not is_small(torch.sin)
    assert not is_small(network(), lambda t, x: -x, sigma=1.0)
    assert not is_small(network(width=512))


def test_chunks_keep_to_the_budget_and_to_whole_blocks() -> None:
    x0 = normal(10**5, 3)
    sizes: list[int] = []

    class Watched(MLP):
        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(t, x)

    dynamics = Dynamics(Watched(UNITS, MLPConfig(8)).float())
    simulate(dynamics, x0[: 3 * CACHED], [0, 1], max_step=1.0)
    assert set(sizes) == {CACHED}
    for memory in (6e6, 2e7):
        sizes.clear()
        simulate(dynamics, x0[:5000], [0, 1], max_step=1.0, limits=Limits(memory=memory))
        assert max(sizes) % BLOCK == 0
        assert memory / 3 < max(sizes) * 2048 * 4 < memory


# --- steps -----------------------------------------------------------------------------------


def test_length_of_steps_follows_the_interval_between_knots() -> None:
    asked: list[float] = []
    field = Dynamics(lambda t, x: asked.append(float(t)) or torch.zeros_like(x))
    how = Integration(solver="euler", knots=(0.0, 1.0, 9.0))
    assert SOLVERS["euler"].steps_per_interval == 10
    simulate_as(field, normal(2, 3), [-0.5, 5.0, 10.6], how=how)
    tenths = [k / 10 for k in range(-5, 10)]
    steps = [*tenths, *(1 + 0.8 * k for k in range(12))]
    assert sorted({round(t, 6) for t in asked}) == pytest.approx(steps)
    asked.clear()
    simulate_as(field, normal(2, 3), [1.8, 0.7], how=how)
    assert [round(t, 6) for t in asked] == pytest.approx([1.8, 1.0, 0.9, 0.8])
    asked.clear()
    simulate_as(field, normal(2, 3), [0, 1.0, 9.0], how=replace(how, max_step=4.5))
    assert asked == pytest.approx([0.0, 4.5, 9.0])  # the last for the states between


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not SOLVERS[s].stochastic])
def test_knots_do_not_change_the_solution(solver: str) -> None:
    x0, times = normal(7, 3, dtype=torch.float64), [0.0, 0.3, 2.0, 5.0]
    dynamics = Dynamics(
        lambda t, x: -x * torch.cos(t), growth=lambda t, x: torch.sin(t).expand(len(x))
    )
    knots = tuple(k + 0.03 * (k % 2) for k in torch.arange(0, 5.1, 0.1).tolist())
    path = simulate_as(dynamics, x0, times, how=Integration(solver=solver, knots=knots))
    t = path.times
    tolerance = {1: 0.15, 2: 1e-4, 4: 1e-8, 5: 1e-4}[SOLVERS[solver].order]
    exact = x0 * torch.exp(-torch.sin(t))[:, None, None]
    torch.testing.assert_close(path.x, exact, rtol=0, atol=tolerance)
    masses = (1 - torch.cos(t))[:, None].expand(4, 7)
    torch.testing.assert_close(path.log_mass, masses, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_step": 1e-9}, "`max_step`: got 1e-09, so 1e.09 steps over a span of 1, expected"),
        (
            {"output": Output(readout=lambda x: x[:, 0])},
            r"`readout`: got \(1,\), expected a tensor \(1, k\)",
        ),
        ({"output": Output(readout=lambda x: 3.0)}, "`readout`: got float"),
    ],
)
def test_bad_settings_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        simulate(Dynamics(lambda t, x: -x), normal(3, 3), [0, 1], **change)


@pytest.mark.parametrize("solver", ["rk4", "sra1"])
def test_readout_is_applied_to_all_states(solver: str) -> None:
    matrix = normal(3, 8, dtype=torch.float64)
    x0 = normal(300, 3, dtype=torch.float64)
    drift = Dynamics(lambda t, x: -x, lambda t, x: -x, lambda t, x: x[:, 0], sigma=0.3)
    plain = simulate(drift, x0, TIMES, solver=solver)
    output, limits = Output(readout=lambda x: x @ matrix + 1), Limits(memory=1e5)
    read = simulate(drift, x0, TIMES, solver=solver, output=output, limits=limits)
    torch.testing.assert_close(read.x, plain.x @ matrix + 1)
    assert torch.equal(read.log_mass, plain.log_mass)


# --- one call of the score -------------------------------------------------------------------


def test_drift_of_a_composed_field_evaluates_its_score_once() -> None:
    score = network("score", seed=3)
    velocity = BridgeVelocity(network(seed=1), score, BrownianBridge(0.6), (0.0, 1.0, 2.5))
    shared = Dynamics(velocity, score, sigma=0.6)
    apart = Dynamics(velocity, lambda t, x: score(t, x), sigma=0.6)
    calls = []
    score.register_forward_hook(lambda *_: calls.append(None))
    for t in (0.1, 0.9, 2.0):
        t, x = torch.tensor(t, dtype=torch.float64), normal(50, 3)
        for name in ("drift", "reverse_drift"):
            calls.clear()
            value = getattr(shared, name)(t, x)
            assert len(calls) == 1
            torch.testing.assert_close(value, getattr(apart, name)(t, x))


# --- noise -----------------------------------------------------------------------------------


def test_noise_is_the_same_motion_for_every_solver() -> None:
    # Without a drift the path is the motion itself.
    still = Dynamics(lambda t, x: 0 * x, lambda t, x: 0 * x, sigma=0.7)
    x0 = torch.zeros(3 * BLOCK, 2)
    ends = [
        simulate(still, x0, [0, 1], solver=s, generator=3).final for s in ("euler_maruyama", "sra1")
    ]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_noise_is_drawn_once_a_step_for_a_solver_without_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    normals = Noise._normals
    monkeypatch.setattr(
        Noise, "_normals", lambda self, stream: drawn.append(stream) or normals(self, stream)
    )
    still = Dynamics(lambda t, x: 0 * x, lambda t, x: 0 * x, sigma=0.7)
    for solver, per_step in (("euler_maruyama", 1), ("sra1", 2)):
        for times, between in (([0, 0.5, 1], 0), ([0, 0.03, 0.5, 1], 1)):
            drawn.clear()
            simulate(still, torch.zeros(5, 2), times, solver=solver, max_step=0.1)
            assert len(drawn) == 10 * per_step + between


def test_streams_are_independent_over_cells_steps_and_kinds() -> None:
    source = Noise(5, 0, torch.zeros(40 * BLOCK, 2), dim=2)
    one, two = source.increments(1.0), source.increments(1.0)
    theta = torch.tensor([0.5], dtype=torch.float64)
    beside = [inc.mean - inc.total / 2 for inc in (one, two)]
    kinds = [one.total, two.total, *beside, source.bridge(theta, 1.0)[0]]
    columns = torch.cat([k.double() for k in kinds], dim=1)
    n = len(columns)
    expected = torch.tensor([1, 1, 1 / 12, 1 / 12, 1 / 4], dtype=torch.float64)
    spread = columns.var(0) / expected.repeat_interleave(2)
    assert (spread - 1).abs().max() < 4.5 * math.sqrt(2 / n)
    assert (columns.mean(0) / columns.std(0)).abs().max() < 4.5 / math.sqrt(n)
    assert (columns.T.corrcoef() - torch.eye(10)).abs().max() < 4.5 / math.sqrt(n)
    blocks = one.total[:, 0].double().reshape(40, BLOCK)
    assert (blocks.corrcoef() - torch.eye(40)).abs().max() < 5 / math.sqrt(BLOCK)


def test_blocks_of_an_accelerator_keep_the_law_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "block_size", lambda device: 64)
    whole = Noise(1, 0, torch.zeros(300, 3), dim=3)
    part = Noise(1, 100, torch.zeros(90, 3), dim=3)
    for _ in range(3):
        assert torch.equal(whole.increments(1.0).total[100:190], part.increments(1.0).total)
    assert noise.DEVICE_BLOCK % BLOCK == 0
