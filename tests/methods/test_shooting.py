"""Shooting: one law of motion for all times, of least action."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow.batches import Batching, CouplingHealth
from cellflow.methods import Shooting
from cellflow.methods.simulating import Shots, travel
from cellflow.metrics import wasserstein1
from cellflow.networks import MLP, MLPConfig, Units
from cellflow.paths import Pairs
from cellflow.saving import load
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions
from cellflow.training.trainer import Training

F64 = torch.float64


def cells(n: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def pairs(x0: torch.Tensor, x1: torch.Tensor, t0: float, t1: float) -> Pairs:
    one = torch.ones(len(x0), 1, dtype=F64)
    return Pairs(x0, x1, t0 * one, t1 * one)


def test_travel_of_a_turn_has_its_closed_form_end_and_action() -> None:
    """Rotation at rate w for a span h: speed w |x| throughout, action h² w² |x|²."""
    x, w, h = cells(), 0.7, 2.0
    matrix = w * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    end, action = travel(lambda t, y: y @ matrix, pairs(x, x, 1.0, 1.0 + h), 64)
    assert_close(end, x @ torch.linalg.matrix_exp(h * matrix), rtol=1e-7, atol=1e-7)
    expected = h**2 * w**2 * x.square().sum(1)
    assert_close(action, expected, rtol=1e-3, atol=1e-3)  # chords for arcs, of 1/64 of 80 degrees


def test_travel_evaluates_fields_at_their_own_times() -> None:
    """dx/dt = t from t0 to t1 is (t1² - t0²) / 2, exactly for this solver, at uneven spans."""
    x = cells(2)
    p = replace(pairs(x, x, 1.0, 3.0), t1=torch.tensor([[3.0], [4.0]], dtype=F64))
    end, _ = travel(lambda t, y: t[:, None].expand_as(y), p, 3)
    assert_close(end - x, torch.tensor([[4.0, 4.0], [7.5, 7.5]], dtype=F64))


def test_shooting_loss_is_the_transport_cost_and_the_weighted_action() -> None:
    """A constant field: cells miss by what is left, in the order that transport finds."""
    x, drift = cells(), torch.tensor([2.0, -1.0], dtype=F64)
    target = (x + 3 * drift).flip(0)
    health = CouplingHealth()
    method = Shooting(batching=Batching(batch_size=8), action=0.1, first_action=0.25)
    course, options = TimeCourse.from_arrays([x, target], [0.0, 2.0]), FitOptions()
    terms, _ = method.begin(lambda t, y: drift.expand_as(y), course, options=options, health=health)
    out = terms(Shots(pairs(x, target, 0.0, 2.0), 0))
    assert_close(out["miss"], drift.square().sum())
    assert_close(out["action"], 0.25 * 4 * drift.square().sum())
    assert health.plans == 1


def test_shooting_weight_of_the_action_falls_geometrically_and_stays() -> None:
    method = Shooting(action=1e-3, first_action=0.1)
    weights = [method.weight(k, 100) for k in (0, 35, 70, 99)]
    assert weights == pytest.approx([0.1, 1e-2, 1e-3, 1e-3])


def small(**settings) -> Shooting:
    return Shooting(
        net=MLPConfig(width=32, depth=2, time=False),
        batching=Batching(batch_size=16, prefetch=False),
        training=Training(learning_rate=1e-2, ema=0.9, validation=0.0),
        substeps=5,
        **settings,
    )


def test_shooting_action_shortens_paths_by_its_weight() -> None:
    """Of a move by D the action of weight a leaves D a / (1 + a): the minimum of
    (D - y)² + a y²."""
    x = 0.01 * cells(16)
    move = torch.tensor([3.0, 4.0], dtype=F64)
    course = TimeCourse.from_arrays([x, x + move], [0.0, 2.5])
    fit = small(action=0.5, first_action=0.5).fit(course, steps=150, progress=False)
    end = fit.simulate(course.snapshots[0].x, [0.0, 2.5]).final
    assert_close(end.mean(0), x.mean(0) + move / 1.5, rtol=0, atol=0.05)


def turning(step: float, n: int) -> list[torch.Tensor]:
    base = 0.2 * cells(24, seed=1) + torch.tensor([2.0, 0.0], dtype=F64)
    angles = [math.radians(step * k) for k in range(n)]
    turns = [[[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]] for a in angles]
    return [base @ torch.tensor(turn, dtype=F64) for turn in turns]


def test_shooting_recovers_a_turn_from_few_snapshots() -> None:
    """130 degrees a step, less than three to a turn: the middle of a chord is 2 (1 - cos 65°) =
    1.15 from the circle, and a spline's is no closer. One law of motion goes round."""
    xs = turning(65.0, 13)
    course = TimeCourse.from_arrays(xs[::2])
    fit = small().fit(course, steps=250, progress=False)
    missed = [
        float(wasserstein1(fit.simulate(a.x, [a.time, a.time + 0.5]).final, xs[2 * k + 1]))
        for k, a in enumerate(course.snapshots[:-1])
    ]
    assert max(missed) < 0.3


def test_shooting_fit_is_saved_and_loaded_whole(tmp_path) -> None:
    course = TimeCourse.from_arrays(turning(65.0, 3))
    method = small(action=0.01)
    fit = method.fit(course, steps=3, generator=2, progress=False)
    again = load(fit.save(tmp_path / "fit"))
    assert again.method == fit.method == method
    assert torch.equal(again.velocity(0.3, cells()), fit.velocity(0.3, cells()))
    assert torch.equal(fit.velocity(0.3, cells()), fit.velocity(1.7, cells()))
    same = method.fit(course, steps=3, generator=2, progress=False)
    assert torch.equal(same.velocity(0.3, cells()), fit.velocity(0.3, cells()))


@pytest.mark.parametrize("settings", [{}, {"skip": True}])
def test_network_without_time_is_the_same_at_all_times(settings) -> None:
    net = MLP(Units((1.0, 2.0)), MLPConfig(time=False, **settings)).to(F64)
    if net.gate is not None:
        torch.nn.init.ones_(net.gate[-1].weight)
    t = torch.linspace(0, 3, 8, dtype=F64)
    assert torch.equal(net(t, cells()), net(0 * t, cells()))


def test_shooting_names_a_simulation_that_diverges() -> None:
    how = {"options": FitOptions(), "health": CouplingHealth()}
    course = TimeCourse.from_arrays([cells(), cells()])
    terms, _ = Shooting().begin(lambda t, y: y * float("inf"), course, **how)
    with pytest.raises(FloatingPointError, match="left for infinity at step 7"):
        terms(Shots(pairs(cells(), cells(), 0.0, 1.0), 7))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"action": 0.0}, "action"),
        ({"action": 0.2, "first_action": 0.1}, "first_action"),
        ({"substeps": 0}, "substeps"),
    ],
)
def test_bad_settings_are_named(settings, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`: got"):
        Shooting(**settings)
