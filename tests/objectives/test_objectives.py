"""The minimisers of the losses, without training: exact fields are stationary, others are not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import toys
from cellflow.dynamics import Dynamics
from cellflow.objectives import (
    growth_matching,
    mean_velocity_matching,
    score_matching,
    velocity_matching,
)
from cellflow.paths import Pairs
from cellflow.simulate import simulate
from cellflow.training.networks import BridgeVelocity
from oracles import F64, Chain, Oracle, Z, deviations, standardised

N = 20_000
FRACTIONS = (0.02, 0.3, 0.5, 0.8, 0.98)
SIGMA = 0.9
SOURCE = toys.Gaussian([0.0, 1.0], [[1.0, 0.6], [0.6, 0.8]])
MIDDLE = toys.Gaussian([2.0, -1.0], [[0.5, -0.3], [-0.3, 0.9]])
LAST = toys.Gaussian([1.0, -2.0], [[0.9, 0.2], [0.2, 0.4]])
SHORT = toys.GaussianBridge(SOURCE, MIDDLE, span=0.5, sigma=SIGMA)
LONG = toys.GaussianBridge(SOURCE, MIDDLE, span=2.0, sigma=SIGMA)
ORACLES = {
    "short": Oracle(SHORT, 3.0),
    "long": Oracle(LONG),
    "growing": Oracle(LONG, 1.0, (0.3, -0.1, 0.2, 0.4), -0.2),
}
TERMS = {
    "velocity": lambda field, batch: velocity_matching(Dynamics(field), batch)["velocity"],
    "mean_velocity": lambda field, batch: mean_velocity_matching(field, batch)["velocity"],
    "score": lambda field, batch: score_matching(Dynamics(field, field), batch)["score"],
    "growth": lambda field, batch: growth_matching(
        Dynamics(field, growth=lambda t, x: field(t, x)[:, 0]), batch
    )["growth"],
}


def slopes(name: str, field, batch) -> torch.Tensor:
    """Slope of the loss along constant and linear changes of `field`, in standard errors."""
    value = field(batch.t, batch.x)
    value = (value[:, None] if value.ndim == 1 else value).clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(TERMS[name](lambda t, x: value, batch), value)
    along = torch.cat([torch.ones(len(grad), 1, dtype=F64), batch.x], 1)
    return standardised((grad[:, :, None] * along[:, None, :]).flatten(1))


# --- minimisers ------------------------------------------------------------------------------


@pytest.mark.parametrize("s", FRACTIONS)
@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in ORACLES for name in TERMS if name != "growth" or case == "growing"],
)
def test_exact_fields_are_stationary(case: str, name: str, s: float) -> None:
    oracle = ORACLES[case]
    assert slopes(name, getattr(oracle, name), oracle.points(N, s)).abs().max() < Z


def test_growth_target_is_zero_where_mass_stays() -> None:
    batch = ORACLES["short"].points(10, 0.3)
    assert float(TERMS["growth"](lambda t, x: 0 * x, batch)) == 0.0
    assert float(TERMS["growth"](lambda t, x: 0 * x + 2, batch)) == 4.0


@pytest.mark.parametrize("case", ["short", "long"])
def test_without_growth_the_oracle_is_the_bridge(case: str) -> None:
    oracle, x = ORACLES[case], ORACLES[case].points(50, 0.4).x
    for s in FRACTIONS:
        t = s * oracle.bridge.span
        law, exact = oracle.at(oracle.start + t), oracle.bridge.at(t)
        assert_close((law.mean, law.cov), (exact.mean, exact.cov))
        assert_close(oracle.velocity(oracle.start + t, x), oracle.bridge.velocity(t, x))


#: Name -> (term, what is wrong with the field).
WRONG = {
    "the mean's velocity is not the flow's": ("velocity", lambda o: o.mean_velocity),
    "the flow's velocity is not the mean's": ("mean_velocity", lambda o: o.velocity),
    "twice the score": ("score", lambda o: lambda t, x: 2 * o.score(t, x)),
    "no score": ("score", lambda o: lambda t, x: 0 * x),
    "a drift for a velocity": (
        "velocity",
        lambda o: lambda t, x: o.velocity(t, x) + 0.5 * SIGMA**2 * o.score(t, x),
    ),
    "units of another span": ("mean_velocity", lambda o: lambda t, x: 2 * o.mean_velocity(t, x)),
}


@pytest.mark.parametrize("s", [0.2, 0.7])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("case", ORACLES)
def test_wrong_fields_are_not_stationary(case: str, wrong: str, s: float) -> None:
    name, make = WRONG[wrong]
    assert slopes(name, make(ORACLES[case]), ORACLES[case].points(N, s)).abs().max() > 2 * Z


@pytest.mark.parametrize("name", TERMS)
def test_fields_of_the_pairs_as_they_started_are_wrong_where_mass_grows(name: str) -> None:
    """Every term weighs its pairs by the mass that they have come to."""
    growing = ORACLES["growing"]
    batch = growing.points(N, 0.8)
    light = replace(batch, weight=None)
    assert slopes(name, getattr(growing, name), light).abs().max() > 2 * Z
    assert slopes(name, getattr(growing, name), batch).abs().max() < Z


def test_drawn_points_lie_on_the_path_at_their_time() -> None:
    """Over two intervals of different lengths: weight, scatter and velocity follow real time."""
    parts = chain((0.3, -0.1, 0.2, 0.4), (-0.2, 0.3, 0.1, -0.2)).parts
    each = [p.pairs(N, k) for k, p in enumerate(parts)]
    pairs = Pairs(*(torch.cat([getattr(p, f.name) for p in each]) for f in fields(Pairs)[:5]))
    batch = parts[0].path.draw(pairs, torch.Generator().manual_seed(5))
    t0, t1 = pairs.t0[:, 0], pairs.t1[:, 0]
    assert bool(((batch.t > t0) & (batch.t < t1)).all())
    assert_close(batch.weight, (pairs.growth[:, 0] * (batch.t - t0)).exp())
    assert_close(batch.growth, pairs.growth[:, 0])
    rate = (pairs.x1 - pairs.x0) / pairs.span
    assert_close(batch.mean_velocity, rate)
    off = batch.x - pairs.x0 - rate * (batch.t - t0)[:, None]
    spread = SIGMA * ((batch.t - t0) * (t1 - batch.t) / (t1 - t0)).sqrt()
    z = off / spread[:, None]
    for part in (slice(0, N), slice(N, None)):
        assert deviations(z[part], toys.Gaussian([0.0, 0.0], torch.eye(2))).abs().max() < Z


# --- what they make up -----------------------------------------------------------------------


def chain(*slopes: tuple[float, ...], level: float = 0.0) -> Chain:
    """Two intervals of lengths 0.5 and 2; the second starts as the first one's mass ends."""
    first = Oracle(SHORT, 1.0, *slopes[:1], level)
    bridge = toys.GaussianBridge(first.at(1.5), LAST, span=2.0, sigma=SIGMA)
    return Chain((first, Oracle(bridge, 1.5, *slopes[1:], level)))


def assembled(exact: Chain, growth: bool = False) -> Dynamics:
    score, path = exact.field("score"), exact.parts[0].path
    velocity = BridgeVelocity(exact.field("mean_velocity"), score, path, exact.times)
    rate = exact.field("growth") if growth else None
    return Dynamics(velocity, score, rate, sigma=SIGMA, breaks=exact.times)


@pytest.mark.parametrize("t", [1.0, 1.01, 1.3, 1.5 - 1e-9, 1.5, 1.5 + 1e-9, 2.0, 3.4, 3.5])
def test_the_parts_make_the_velocity_of_the_bridge_in_every_interval(t: float) -> None:
    exact = chain()
    x = exact.parts[0].points(40, 0.5).x
    part = exact.part(t)
    expected = part.bridge.velocity(t - part.start, x)
    velocity = assembled(exact).velocity
    assert_close(velocity(torch.tensor(t, dtype=F64), x), expected)
    assert_close(velocity(torch.full((40,), t, dtype=F64), x), expected)


def test_the_velocity_jumps_at_a_snapshot_as_one_bridge_ends_and_another_begins() -> None:
    """From u + ½σ² score to u' - ½σ² score: both finite, and told apart cell by cell."""
    exact = chain()
    x = exact.parts[1].points(40, 0.0).x
    t = torch.tensor([1.5 - 1e-9, 1.5], dtype=F64).repeat(20)
    # An oracle knows one time at once; a network does not mind.
    parts = [
        lambda t, x, name=name: torch.where(
            (t < 1.5)[:, None], getattr(exact.parts[0], name)(1.5, x), exact.field(name)(1.5, x)
        )
        for name in ("mean_velocity", "score")
    ]
    found = BridgeVelocity(*parts, exact.parts[0].path, exact.times)(t, x)
    ends, begins = exact.parts[0].velocity(1.5, x), exact.parts[1].velocity(1.5, x)
    assert_close(found[0::2], ends[0::2], rtol=1e-7, atol=1e-7)
    assert_close(found[1::2], begins[1::2])
    assert (ends - begins).norm(dim=1).min() > 0.1


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("solver", "step"), [("rk4", 0.05), ("sra1", 0.02)])
def test_exact_parts_carry_cells_and_their_mass(solver: str, step: float, backward: bool) -> None:
    """Weighted by mass, cells have the closed-form law; in total, the closed-form mass."""
    exact = chain((0.3, -0.1, 0.2, 0.4), (-0.2, 0.3, 0.1, -0.2), level=0.1)
    times = [1.0, 1.2, 1.5, 2.1, 3.5]
    times = times[::-1] if backward else times
    law = exact.at(times[0])
    x0 = law.sample(N, generator=1)
    path = simulate(assembled(exact, growth=True), x0, times, solver=solver, max_step=step)
    for time, x, mass in zip(times, path.x, path.mass, strict=True):
        assert deviations(x, exact.at(time), mass).abs().max() < Z
        total = exact.mass(time) / exact.mass(times[0])
        off = (mass.mean() - total) / (mass.std() / N**0.5).clamp(min=1e-12)
        assert off.abs() < Z
    assert deviations(path.final, exact.at(times[-1])).abs().max() > 2 * Z
