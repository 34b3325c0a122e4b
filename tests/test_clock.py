"""Clocks, and fits that count time by them, against closed forms and SciPy's integrator."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch.testing import assert_close

import cellflow as cf
from cellflow import OTCFM, Snapshot, TimeCourse
from cellflow.batches import Batching
from cellflow.clock import Clock
from cellflow.couplings import Exact, Unbalanced
from cellflow.methods import FlowMatching, Iterated
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge, Straight
from cellflow.preprocessing import fit_preprocessing
from cellflow.several.stacked import fit_stacked
from cellflow.training.options import FitOptions

F64 = torch.float64
CLOCK = Clock((0.0, 1.0, 4.0, 5.5), (0.0, 3.0, 3.5, 5.5))
SMALL = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}


def moving(places: list[float], times: list[float], n: int = 400) -> TimeCourse:
    """Gaussian clouds of unit width, independent at each time, around `places` on a line."""
    rng = torch.Generator().manual_seed(0)
    away = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    xs = [torch.randn(n, 3, generator=rng, dtype=F64) + place * away for place in places]
    return TimeCourse.from_arrays(xs, times)


def method(**settings) -> FlowMatching:
    return FlowMatching(Exact(), Straight(0.1), **SMALL, **settings)


def growing() -> FlowMatching:
    coupling = Unbalanced(relaxation=1.0, relative_epsilon=0.1)
    return FlowMatching(coupling, Straight(0.1), **SMALL, growth=True, clock="distance")


# --- the map ---------------------------------------------------------------------------------


def test_clock_passes_its_knots_increases_and_is_undone_by_its_inverse() -> None:
    assert_close(CLOCK(CLOCK.times), torch.tensor(CLOCK.progress, dtype=F64))
    t = torch.linspace(-3, 9, 1201, dtype=F64)
    assert bool((CLOCK(t).diff() > 0).all())
    assert_close(CLOCK.inverse(CLOCK(t)), t, rtol=0, atol=1e-12)
    assert float(CLOCK.inverse(CLOCK(2.5))) == pytest.approx(2.5, abs=1e-12)
    # Beyond the ends with the mean rate of the interval there: 3 and 2 / 1.5.
    assert_close(CLOCK([-1.0, 7.0]), torch.tensor([-3.0, 7.5], dtype=F64))
    assert_close(CLOCK.rate([-1.0, 7.0]), torch.tensor([3.0, 4 / 3], dtype=F64))


def test_rate_is_the_positive_derivative_of_the_clock() -> None:
    for start, end in pairwise((-1.0, *CLOCK.times, 7.0)):
        gone = quad(lambda t: float(CLOCK.rate(t)), start, end, limit=200)[0]
        assert gone == pytest.approx(float(CLOCK(end) - CLOCK(start)), abs=1e-7)
    # A clock that nearly stands still between two sprints still has an inverse.
    stalled = Clock((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, 1.001, 2.0))
    assert stalled.slowest(0.0, 3.0) >= 1e-4


def test_even_knots_make_the_identity() -> None:
    clock = Clock((1.0, 2.0, 5.0, 5.5), (1.0, 2.0, 5.0, 5.5))
    t = torch.linspace(-3, 9, 100, dtype=F64)
    assert_close(clock(t), t, rtol=0, atol=1e-13)
    assert_close(clock.rate(t), torch.ones_like(t), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("times", "progress"),
    [((0.0,), (0.0,)), ((0.0, 1.0), (1.0, 1.0)), ((1.0, 0.0), (0.0, 1.0)), ((0, 1, 2), (0, 1))],
)
def test_knots_that_make_no_clock_are_refused(times, progress) -> None:
    with pytest.raises(ValueError, match="expected"):
        Clock(times, progress)


# --- by distance -----------------------------------------------------------------------------


def test_distance_clock_recovers_an_uneven_pace() -> None:
    """The cloud moves by 6 in the first of four units of time, and by 2 in the other three."""
    clock = Clock.by_distance(moving([0, 6, 8], [1.0, 2.0, 5.0]))
    assert clock.times == (1.0, 2.0, 5.0)
    assert clock.progress[0] == 1.0
    assert clock.progress[2] == pytest.approx(5.0, abs=1e-12)
    # Of 200 cells, the mean along the line has an error of .1 at either end.
    assert clock.progress[1] == pytest.approx(1 + 4 * 6 / 8, abs=0.1)


def test_distance_clock_of_an_even_motion_is_the_identity() -> None:
    times = [0.0, 1.0, 3.0, 4.0]
    clock = Clock.by_distance(moving([0, 4, 12, 16], times), seed=3)
    assert_close(clock.progress, tuple(times), rtol=0, atol=0.1)


def test_distance_clock_takes_off_the_noise_of_sampling() -> None:
    """In ten dimensions, neighbours of 100 cells are farther than these clouds move."""
    rng = torch.Generator().manual_seed(0)
    shift = torch.zeros(10, dtype=F64)
    shift[0] = 1.0
    xs = [torch.randn(200, 10, generator=rng, dtype=F64) + k * shift for k in (0, 1, 5)]
    course = TimeCourse.from_arrays(xs, [0.0, 1.0, 2.0])
    raw = np.sqrt([Exact()(a, b).cost for a, b in course.steps])
    ours = Clock.by_distance(course).progress[1] / 2
    assert abs(ours - 1 / 5) < 0.06 < abs(raw[0] / raw.sum() - 1 / 5)


def test_distance_clock_goes_on_where_nothing_moves() -> None:
    one, other = Snapshot(torch.zeros(1, 2), 0.0), Snapshot(torch.zeros(3, 2), 1.0)
    still = TimeCourse((one, other, Snapshot(torch.zeros(2, 2), 3.0)))
    assert Clock.by_distance(still).progress == (0.0, 1.0, 3.0)
    moved = TimeCourse((one, other, Snapshot(torch.ones(2, 2), 3.0)))
    assert 0 < Clock.by_distance(moved).progress[1] < 0.1


# --- fits ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
@pytest.mark.parametrize("whiten", [False, True])
def test_simulate_integrates_velocity_and_growth_per_unit_of_the_users_time(whiten) -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    prep = fit_preprocessing(c.x, whiten=True) if whiten else None
    fit = growing().fit(c, steps=20, progress=False, preprocessing=prep)
    assert fit.clock is not None
    assert fit.course is c
    x, grid = c.snapshots[0].x[:3], [1.5, 2.0, 3.7, 6.0]

    def rates(t: float, state: np.ndarray) -> np.ndarray:
        cells = torch.from_numpy(state[:9].reshape(3, 3))
        return np.concatenate([fit.velocity(t, cells).flatten(), fit.growth(t, cells)])

    start = np.concatenate([x.flatten(), np.zeros(3)])
    states = [start]
    for here, there in pairwise([1.5, 2.0, 3.7, 5.0, 6.0]):  # the rate jumps at the end, 5
        way = solve_ivp(rates, (here, there), states[-1], rtol=1e-9, atol=1e-9)
        states.append(way.y[:, -1])
    del states[3]
    path = fit.simulate(x, grid, max_step=0.02)
    assert path.times.tolist() == grid
    expected = torch.from_numpy(np.stack(states))
    assert_close(path.x.flatten(1), expected[:, :9], rtol=0, atol=1e-5)
    assert_close(path.log_mass, expected[:, 9:], rtol=0, atol=1e-5)
    assert_close(fit.simulate(x, grid).x, path.x, rtol=0, atol=1e-3)


def test_dynamics_are_those_of_the_retimed_course() -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    ours = FlowMatching(Exact(), BrownianBridge(0.5), **SMALL, score=True, clock="distance")
    fit = ours.fit(c, steps=20, progress=False)
    retimed = fit.clock.retime(c)
    plain = replace(ours, clock="physical").fit(retimed, steps=20, progress=False)
    x, t = c.snapshots[1].x, torch.linspace(1, 5, 60, dtype=F64)
    rate, progress = fit.clock.rate(t), fit.clock(t)
    assert_close(fit.velocity(t, x), plain.velocity(progress, x) * rate[:, None])
    assert_close(fit.score(t, x), plain.score(progress, x))
    there = float(fit.clock(3.0))
    predicted = plain.predict(retimed.snapshots[1], there)
    assert_close(fit.predict(c.snapshots[1], 3.0).x, predicted.x)
    noisy = {"solver": "euler_maruyama", "generator": 1}
    drawn = plain.simulate(x, [retimed.times[1], there], **noisy)
    assert_close(fit.simulate(x, [2.0, 3.0], **noisy).x, drawn.x)


def test_longest_step_is_in_the_users_time() -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    fit = method(clock="distance").fit(c, steps=2, progress=False)
    slow = fit.clock.slowest(1.0, 5.0)
    steps = fit.simulate(c.snapshots[0].x, [1.0, 5.0], max_step=0.5).n_evaluations / 4
    assert steps == np.ceil(4.0 / (0.5 * slow)) > 8


def test_a_stored_trajectory_has_the_users_times(tmp_path) -> None:
    pytest.importorskip("zarr")
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    fit = method(clock="distance").fit(c, steps=2, progress=False)
    x, grid = c.snapshots[0].x, [1.0, 3.0, 4.0]
    stored = fit.simulate(x, grid, store=tmp_path / "paths.zarr")
    assert stored.times.tolist() == grid
    assert torch.equal(stored.load().x, fit.simulate(x, grid).x)


def test_a_loaded_fit_has_the_clock_and_answers_to_the_bit(tmp_path) -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    ours = FlowMatching(Exact(), BrownianBridge(0.5), **SMALL, score=True, clock="distance")
    fit = ours.fit(c, steps=5, progress=False)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    assert loaded.clock == fit.clock
    assert loaded.method == fit.method
    assert loaded.dynamics.breaks == fit.dynamics.breaks == fit.clock.progress
    x = c.snapshots[0].x
    assert torch.equal(loaded.velocity(2.3, x), fit.velocity(2.3, x))
    assert torch.equal(loaded.simulate(x, [1.0, 4.0]).x, fit.simulate(x, [1.0, 4.0]).x)
    assert OTCFM(**SMALL).fit(c, steps=1, progress=False).clock is None


def test_members_and_rounds_keep_the_clock() -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    one = method(clock="distance")
    options = [FitOptions(steps=3, generator=k, progress=False) for k in (0, 1)]
    x = c.snapshots[0].x
    for fit, own in zip(fit_stacked(one, [c, c], options), options, strict=True):
        alone = one.fit_with(c, own)
        assert fit.clock == alone.clock
        assert_close(fit.velocity(2.3, x), alone.velocity(2.3, x), rtol=1e-4, atol=1e-4)
    again = Iterated(one, rounds=1, first_share=0.5).fit(c, steps=10, progress=False)
    assert again.clock is not None
    assert again.clock.times == c.times


def test_the_order_of_cells_does_not_matter_to_the_clock() -> None:
    c = moving([0, 6, 8], [1.0, 2.0, 5.0], n=60)
    turned = c.map(lambda x: x.flip(0))
    one, other = (method(clock="distance").fit(k, steps=1, progress=False) for k in (c, turned))
    assert one.clock == other.clock


def test_unknown_clocks_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'distance'"):
        method(clock="distances")


def test_tempered_progress_is_the_geometric_mean_of_time_and_distance():
    course = moving([0, 6, 8], [1.0, 2.0, 5.0])
    whole, half = Clock.by_distance(course), Clock.by_distance(course, weight=0.5)
    far, late, ours = (np.diff(steps) for steps in (whole.progress, whole.times, half.progress))
    expected = np.sqrt(far * late)
    np.testing.assert_allclose(ours / ours.sum(), expected / expected.sum(), rtol=1e-9)
