"""Fields that jump: solvers keep their order, and no field is asked at the jump."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import cases
from cellflow.dynamics import Dynamics
from cellflow.simulate import SOLVERS, Limits, simulate
from cellflow.simulate.job import cut_at_breaks

TIGHT = {"limits": Limits(rtol=1e-10, atol=1e-10)}


@pytest.fixture(params=list(cases.SOLVERS))
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


def turning(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A field that jumps at 1 and at 1.7, and belongs to neither side there."""
    value = torch.where(t < 1.7, torch.cos(4 * t) * x, 2 - x)
    value = torch.where(t < 1, -x * (1 + t), value)
    return torch.where((t == 1) | (t == 1.7), math.nan, value)


def turning_flow(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """Exact states: the effect of each segment in turn, over what is passed through of it."""
    pieces = [
        (-9.0, 1.0, lambda x, a, b: x * math.exp(a + a**2 / 2 - b - b**2 / 2)),
        (1.0, 1.7, lambda x, a, b: x * math.exp((math.sin(4 * b) - math.sin(4 * a)) / 4)),
        (1.7, 9.0, lambda x, a, b: 2 + (x - 2) * math.exp(a - b)),
    ]
    for low, high, flow in pieces if start < end else pieces[::-1]:
        x = flow(x, min(max(start, low), high), min(max(end, low), high))
    return x


BREAKS = (-3.0, 0.2, 1.0, 1.7, 9.0)
X0 = torch.tensor([[0.5, -1.0], [1.5, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", [s for s in cases.SOLVERS if SOLVERS[s].step is not None])
@pytest.mark.parametrize("start_end", [(0.237, 2.5), (2.5, 0.237)], ids=["forward", "backward"])
@pytest.mark.parametrize("many", [False, True], ids=["at the end", "at many times"])
def test_order_is_kept_across_jumps(name: str, start_end: tuple[float, float], many: bool) -> None:
    times = torch.linspace(*start_end, 47 if many else 2, dtype=torch.float64)
    exact = torch.stack([turning_flow(X0, float(times[0]), float(t)) for t in times])
    dynamics = Dynamics(turning, breaks=BREAKS)
    errors = [
        (simulate(dynamics, X0, times, solver=name, max_step=1 / k).x - exact).abs().max()
        for k in (20, 40, 80)
    ]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates == pytest.approx([cases.SOLVERS[name]] * 2, abs=0.3)
    # Without the breaks no order is left beyond the first.
    blind = Dynamics(lambda t, x: turning(t + 1e-7, x))
    error = (simulate(blind, X0, times, solver=name, max_step=1 / 80).x - exact).abs().max()
    assert cases.SOLVERS[name] == 1 or error > 5 * errors[-1]


@pytest.mark.parametrize("name", [s for s in cases.SOLVERS if SOLVERS[s].step is None])
@pytest.mark.parametrize("start_end", [(0.237, 2.5), (2.5, 0.237)], ids=["forward", "backward"])
def test_adaptive_solvers_keep_their_tolerance(name: str, start_end: tuple[float, float]) -> None:
    times = torch.linspace(*start_end, 47, dtype=torch.float64)
    exact = torch.stack([turning_flow(X0, float(times[0]), float(t)) for t in times])
    path = simulate(Dynamics(turning, breaks=BREAKS), X0, times, solver=name, **TIGHT)
    assert (path.x - exact).abs().max() < 1e-7
    blind = Dynamics(lambda t, x: turning(t + 1e-7, x))
    other = simulate(blind, X0, times[[0, -1]], solver=name, **TIGHT)
    assert path.n_evaluations < 1.5 * other.n_evaluations


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6], ids=str)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_fields_are_evaluated_strictly_inside_each_segment(
    solver: str, offset: float, backward: bool
) -> None:
    breaks = tuple(offset + b for b in (0.0, 0.3, 1.0))
    asked = []
    dynamics = Dynamics(lambda t, x: asked.append(float(t)) or torch.ones_like(x), breaks=breaks)
    times = offset + torch.tensor([-0.5, 0.0, 0.1, 0.2, 0.3, 1.2], dtype=torch.float64)
    times = times.flip(0) if backward else times
    path = simulate(dynamics, X0, times, solver=solver)
    torch.testing.assert_close(path.x, X0 + (times - times[0])[:, None, None])
    assert not set(breaks) & set(asked)
    edges = [times.min(), *breaks, times.max()]
    for low, high in itertools.pairwise(float(e) for e in edges):
        inside = [t for t in asked if low < t < high]
        near = 1e-8 * (1 + abs(offset))
        assert 0 < min(inside) - low < (high - low) / 4 + near
        assert max(inside) < high


@pytest.mark.parametrize("offset", [0.0, 2e7], ids=str)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_break_near_an_output_time_is_merged_with_it(offset: float, backward: bool) -> None:
    breaks = (offset + 0.3, offset + 1.0, math.nextafter(offset + 1.5, 0))
    times = [math.nextafter(breaks[0], sign * math.inf) for sign in (-1, 1)]
    for first in times:
        rows = [first, math.nextafter(breaks[1], 0), offset + 1.5]
        grid = torch.tensor(rows[::-1] if backward else rows, dtype=torch.float64)
        segments, asked = cut_at_breaks(grid, breaks, device=grid.device)
        assert asked.tolist() == [0, 1, 2]
        assert [s.rows for s in segments] == [slice(0, 2), slice(1, 3)]
        assert [s.u.tolist() for s in segments] == [[0.0, 1.0]] * 2
        assert sum(s.share for s in segments) == pytest.approx(1)
        for low, high in (s.bounds for s in segments):
            assert not any(low <= b <= high for b in breaks)


def test_breaks_outside_of_the_span_do_not_change_states(solver: str) -> None:
    plain = Dynamics(lambda t, x: -x * (1 + t), growth=lambda t, x: x[:, 0])
    broken = Dynamics(plain.velocity, growth=plain.growth, breaks=(-5.0, 0.0, 2.0, 4.0))
    one, other = (simulate(d, X0, [0, 0.3, 2], solver=solver) for d in (plain, broken))
    torch.testing.assert_close(one.x, other.x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(one.log_mass, other.log_mass, rtol=1e-7, atol=1e-7)


def test_mass_does_not_depend_on_chunks_across_breaks(solver: str) -> None:
    dynamics = Dynamics(
        lambda t, x: torch.zeros_like(x),
        growth=lambda t, x: torch.where(t < 1, 2.0, -1.0) * x[:, 0],
        breaks=(1.0,),
    )
    x0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    for memory in (1, 1e9):
        path = simulate(dynamics, x0, [0, 0.5, 1.5, 3], solver=solver, limits=Limits(memory=memory))
        exact = torch.tensor([0, 1, 1.5, 0], dtype=torch.float64)[:, None] * x0[:, 0]
        torch.testing.assert_close(path.log_mass, exact)
        assert path.x.shape == (4, 9, 1)


@pytest.mark.parametrize("name", list(cases.NOISY_SOLVERS))
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_noise_continues_across_a_jump_of_the_drift(name: str, backward: bool) -> None:
    dynamics = Dynamics(
        lambda t, x: torch.where(t < 1, 3.0, -1.0) * torch.ones_like(x),
        lambda t, x: torch.zeros_like(x),
        sigma=0.5,
        breaks=(1.0,),
    )
    n, times = 20_000, [2.5, 1.5, 0.0] if backward else [0.0, 1.5, 2.5]
    path = simulate(dynamics, torch.zeros(n, 1), times, solver=name).x[..., 0].double()
    whole = torch.tensor([0.0, 3.0 - 0.5, 3.0 - 1.5])
    whole = (whole - whole[-1]).flip(0) if backward else whole
    for k in (1, 2):
        elapsed = abs(times[k] - times[0])
        assert abs(path[k].mean() - whole[k]) < 4.5 * math.sqrt(0.25 * elapsed / n)
        assert abs(path[k].var() / (0.25 * elapsed) - 1) < 4.5 * math.sqrt(2 / n)
    steps = path.diff(dim=0)
    assert abs(steps.corrcoef()[0, 1]) < 4.5 / math.sqrt(n)


def test_default_steps_are_an_eighth_of_a_segment_at_most() -> None:
    calls = []
    field = lambda t, x: calls.append(float(t)) or torch.zeros_like(x)  # noqa: E731
    simulate(Dynamics(field, breaks=(1.0, 2.0, 3.0)), X0, [0, 40], solver="euler")
    assert sum(t < 1 for t in calls) in (8, 9)
    assert sum(t > 3 for t in calls) in (30, 31)


@pytest.mark.parametrize("breaks", [(1.0, 1.0), (2.0, 1.0), (0.0, math.nan)], ids=str)
def test_bad_breaks_are_refused(breaks: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`breaks`: got"):
        Dynamics(turning, breaks=breaks)
    assert Dynamics(turning, breaks=[0, 1]).breaks == (0.0, 1.0)
