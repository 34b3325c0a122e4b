"""Growth, learned from snapshots whose law of growth is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse
from cellflow.batches import Batching
from cellflow.couplings import Entropic, Unbalanced
from cellflow.methods import METHODS, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.training.trainer import Training
from oracles import F64, relative_error

#: No clipping: its bound is that of both networks' gradients together.
PARTS = {
    "net": MLPConfig(32, 2),
    "batching": Batching(128, None, prefetch=False),
    "training": Training(learning_rate=1e-2, clip=1e9, ema=0.98, validation=0.0),
}


def growing(coupling: Unbalanced, sigma: float = 0.05) -> FlowMatching:
    return FlowMatching(coupling, Straight(sigma), name="growing", growth=True, **PARTS)


def fit(method: FlowMatching, course: TimeCourse, steps: int = 500) -> cf.Fit:
    return method.fit(course, steps=steps, progress=False)


# --- two clusters ------------------------------------------------------------------------------

#: Share of the first cluster at each time, total mass, time.
SHARES, TOTALS, TIMES = (0.5, 0.98), (2.0, 6.0), (1.0, 3.0)
#: Relaxation at which such a change is cheaper than a move across the gap.
HELD = 0.3
FACTORS = torch.tensor([0.98 * 6 / (0.5 * 2), 0.02 * 6 / (0.5 * 2)], dtype=F64)


def clusters(shares=SHARES, totals=TOTALS, times=TIMES) -> TimeCourse:
    """Two groups of 20 cells, nine units apart, whose shares and total change."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for share, total, time in zip(shares, totals, times, strict=True):
        x = 0.1 * torch.randn(40, 2, generator=generator, dtype=F64)
        x[20:, 0] += 9.0
        mass = torch.tensor([share, 1 - share], dtype=F64).repeat_interleave(20) / 20 * total
        out.append(Snapshot(x, time, mass))
    return TimeCourse(tuple(out))


@pytest.fixture(scope="module", params=["uotcfm", "ubsb"])
def grown(request) -> cf.Fit:
    return fit(METHODS[request.param](0.2, relaxation=HELD, **PARTS), clusters())


def test_growth_of_clusters_is_the_rate_of_their_masses(grown: cf.Fit) -> None:
    """So far apart that no cell changes sides: log(m₁/m₀) over two units of time, all the while."""
    x = grown.course.snapshots[0].x
    for time in (1.0, 1.7, 3.0):
        rate = grown.growth(time, x).view(2, 20).mean(1)
        assert_close(rate, FACTORS.log() / 2.0, rtol=0, atol=0.06)


def test_learning_does_not_depend_on_the_unit_of_time() -> None:
    """Losses of velocity and growth are added, and gradients clipped together: both without unit.

    Losses are in squared velocities, and fits the same but for rounding.
    """
    training = replace(PARTS["training"], clip=0.1)
    method = replace(growing(Unbalanced(relaxation=HELD)), training=training)
    days, hours = (fit(method, clusters(times=t), 20) for t in ((1.0, 3.0), (24.0, 72.0)))
    assert hours.history.train_loss[0] * 24**2 == pytest.approx(days.history.train_loss[0])
    x = days.course.snapshots[0].x
    assert_close(24 * hours.growth(48.0, x), days.growth(2.0, x))
    assert_close(24 * hours.velocity(48.0, x), days.velocity(2.0, x))


def test_growth_carries_masses_forward_and_back(grown: cf.Fit) -> None:
    start, end = grown.course.snapshots
    there = grown.predict(start, end.time)
    assert_close(there.mass.view(2, 20).sum(1), end.mass.view(2, 20).sum(1), rtol=0.1, atol=0)
    back = grown.predict(there, start.time)  # mass shrinks where it grew
    assert_close(back.mass, start.mass, rtol=1e-3, atol=0)
    assert_close(grown.interpolate(3.0 - 1e-9).mass, there.mass, rtol=1e-6, atol=0)


def test_interpolate_has_the_populations_mass_for_any_number_of_cells(grown: cf.Fit) -> None:
    """By mass alone: they are drawn evenly, and not by their masses as well."""
    whole = grown.interpolate(2.0)
    share = whole.mass[whole.x[:, 0] < 4.5].sum() / whole.mass.sum()
    for n in (30, 4000):
        drawn = grown.interpolate(2.0, n_cells=n, generator=1)
        first = grown.interpolate(1.0, n_cells=n, generator=1)
        assert float(first.mass.sum()) == pytest.approx(2.0)
        near = drawn.x[:, 0] < 4.5
        assert abs(float(near.double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(n)
        drawn_share = drawn.mass[near].sum() / drawn.mass.sum()
        assert drawn_share == pytest.approx(float(share), abs=4.5 * 0.3 / math.sqrt(n) + 0.01)


def test_growth_agrees_with_the_plan_on_cells_without_descendants(grown: cf.Fit) -> None:
    start, end = grown.course.snapshots
    plan = Unbalanced(relaxation=HELD)(start, end)
    assert plan.childless == pytest.approx(0.5)
    assert grown.history.coupling["mean_childless"] == pytest.approx(0.5)


def test_stochastic_paths_have_the_masses_of_the_mean_flow() -> None:
    """Growth hardly depends on where in its cluster a cell is."""
    bridge = fit(METHODS["ubsb"](0.2, relaxation=HELD, **PARTS), clusters())
    start = bridge.course.snapshots[0]
    flow = bridge.predict(start, 3.0)
    paths = bridge.predict(start, 3.0, solver="euler_maruyama")
    assert_close(paths.mass.view(2, 20).mean(1), flow.mass.view(2, 20).mean(1), rtol=0.05, atol=0)


# --- growth linear in the state ---------------------------------------------------------------


def test_growth_of_a_tilted_gaussian_has_its_closed_form() -> None:
    r"""Births at rate a·x + c and no motion: N(0, 1) of mass 1 becomes N(a, 1) of mass M.

    Both snapshots weigh the nodes of one grid, so that nobody needs to move. Halfway the masses
    are those of N(a/2, 1), √M e^{−a²/8} in total.
    """
    a, total = 0.8, 3.0
    nodes = torch.arange(-4.0, 4.0 + a, 0.1, dtype=F64)
    weights = [torch.exp(-0.5 * (nodes - k * a) ** 2) for k in (0, 1)]
    weights = [w / w.sum() for w in weights]
    course = TimeCourse.from_arrays([nodes[:, None]] * 2, masses=[weights[0], total * weights[1]])
    coupling = Unbalanced(relative_epsilon=1e-4, relaxation=1e-3, tolerance=1e-9)
    plan = coupling(*course.snapshots)
    rate = a * nodes - 0.5 * a**2 + math.log(total)
    # Converged to 1e-9 of the mass, of which the outermost nodes have a few parts in ten thousand.
    assert_close(plan.source_growth + plan.target_growth, rate, rtol=0, atol=1e-4)
    assert plan.cost < 1e-9

    out = fit(growing(coupling), course, 800)
    seen = nodes.abs() < 2.5
    for t in (0.0, 0.4, 1.0):
        assert float((out.growth(t, nodes[:, None]) - rate)[seen].abs().max()) < 0.1
        assert float(out.velocity(t, nodes[seen, None]).abs().max()) < 0.1
    half = out.predict(course.snapshots[0], 0.5)
    expected = math.sqrt(total) * math.exp(-(a**2) / 8)
    assert float(half.mass.sum()) == pytest.approx(expected, rel=0.02)
    mean = half.weights @ half.x[:, 0]
    assert float(mean) == pytest.approx(a / 2, abs=0.03)
    assert float(half.weights @ (half.x[:, 0] - mean) ** 2) == pytest.approx(1.0, abs=0.05)


def translated(believed: bool) -> tuple[TimeCourse, torch.Tensor]:
    """Cells that move along the second axis, and grow according to their place on the first."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=generator, dtype=F64)
    rate = 0.6 * x[:, 0] - 0.2
    mass = torch.rand(120, generator=generator, dtype=F64) + 0.5
    later = Snapshot(x + torch.tensor([0.0, 1.5], dtype=F64), 2.0, mass * (2.0 * rate).exp())
    return TimeCourse((Snapshot(x, 0.0, mass, growth=rate if believed else None), later)), rate


def test_growth_is_the_prior_without_relaxation() -> None:
    course, rate = translated(believed=True)
    coupling = Unbalanced(relative_epsilon=5e-4, relaxation=None)
    plan = coupling(*course.snapshots)
    assert_close(plan.source_growth, 2.0 * rate, rtol=0, atol=1e-9)
    out = fit(growing(coupling, 0.02), course, 800)
    x = course.snapshots[0].x
    for t in (0.0, 1.0, 2.0):
        there = x + torch.tensor([0.0, 0.75 * t], dtype=F64)
        error = (out.growth(t, there) - rate).square().mean().sqrt()
        assert float(error) < 0.08  # of a standard deviation of 0.6
    carried = out.predict(course.snapshots[0], 2.0)
    assert_close(carried.mass.sum(), course.snapshots[1].mass.sum(), rtol=0.05, atol=0)
    # Without the prior, and with nothing to pay for growth, all of it is put down to motion.
    blind, _ = translated(believed=False)
    still = coupling(*blind.snapshots)
    assert float((still.source_growth - still.source_growth[0]).abs().max()) < 1e-9


# --- no growth ----------------------------------------------------------------------------------


def test_growth_is_zero_without_prior_and_relaxation() -> None:
    """The same pairs, times and first weights as a method without growth: the same flow."""
    generator = torch.Generator().manual_seed(3)
    xs = [torch.randn(60, 2, generator=generator, dtype=F64) + k for k in range(3)]
    course = TimeCourse.from_arrays(xs, (0.0, 1.0, 3.0))
    with_growth = growing(Unbalanced(epsilon=0.05, relaxation=None, tolerance=1e-9), 0.1)
    without = replace(
        with_growth, coupling=Entropic(epsilon=0.05, tolerance=1e-9), growth=False, name="flow"
    )
    out, flow = fit(with_growth, course, 300), fit(without, course, 300)
    for t in (0.0, 0.7, 2.0):
        assert relative_error(out.velocity(t, xs[0] + t), flow.velocity(t, xs[0] + t)) < 1e-4
        assert float(out.growth(t, xs[0] + t).abs().max()) < 0.02
    mass = out.simulate(xs[0], [0.0, 3.0]).mass[-1]
    assert_close(mass, torch.ones(60, dtype=F64), rtol=0, atol=0.05)


def test_growth_of_the_whole_is_zero_without_masses() -> None:
    """Snapshots without masses have mass one each: shares change, the total does not."""
    course = clusters(totals=(1.0, 1.0), shares=(0.5, 0.8))
    course = TimeCourse(
        tuple(
            Snapshot(s.x[: n + 20], s.time) for s, n in zip(course.snapshots, (20, 5), strict=True)
        )
    )  # 20 and 20 cells, then 20 and 5
    out = fit(growing(Unbalanced(), 0.2), course, 300)
    end = out.predict(course.snapshots[0], 3.0)
    assert float(end.mass.sum()) == pytest.approx(1.0, rel=0.05)
    assert float(end.mass[:20].sum()) == pytest.approx(0.8, abs=0.05)


def test_method_without_growth_keeps_masses() -> None:
    course = clusters()
    out = fit(cf.OTCFM(0.1, **PARTS), course, 5)
    start = course.snapshots[0]
    assert out.simulate(start.x, [1.0, 3.0]).mass is None
    assert torch.equal(out.predict(start, 3.0).mass, start.mass)
