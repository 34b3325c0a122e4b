"""Splines: paths that bend, and the velocities that bend them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.interpolate import CubicSpline
from torch.testing import assert_close

from cellflow.batches import Batching, spline_rates
from cellflow.couplings import Entropic, Exact, Given, Independent, Partial
from cellflow.methods import MMFM, OTCFM, FlowMatching
from cellflow.metrics import wasserstein1
from cellflow.networks import MLPConfig
from cellflow.paths import Pairs, Path, Spline, Straight
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import Training

TIMES = [0.0, 0.7, 1.0, 2.5, 3.1]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def cubic_pairs(n: int = 6, d: int = 3) -> tuple[Pairs, torch.Tensor]:
    """Pairs on cubic motions over uneven spans, with their true velocities; coefficients."""
    c = randn(4, n, d, seed=1)
    t0, t1 = torch.linspace(-1, 1, n)[:, None].double(), torch.linspace(0.5, 4, n)[:, None].double()
    return Pairs(at(c, t0), at(c, t1), t0, t1, rate0=rate(c, t0), rate1=rate(c, t1)), c


def at(c: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return c[0] + c[1] * t + c[2] * t**2 + c[3] * t**3


def rate(c: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return c[1] + 2 * c[2] * t + 3 * c[3] * t**2


@pytest.mark.parametrize("s", [0.0, 0.3, 0.8, 1.0])
def test_cubic_motions_are_met_exactly(s: float) -> None:
    p, c = cubic_pairs()
    fraction = torch.full((6, 1), s, dtype=torch.float64)
    point = Spline(0.2).at(p, fraction, torch.zeros(6, 3, dtype=torch.float64))
    t = p.t0 + s * p.span
    assert_close(point.x, at(c, t))
    assert_close(point.velocity, rate(c, t))
    assert_close(point.mean_velocity, rate(c, t))


def test_rates_equal_automatic_ones() -> None:
    p, path = replace(cubic_pairs()[0], rate0=randn(6, 3, seed=2)), Spline(0.2)
    s = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)[:, None]
    assert_close(path.mean_rate(p, s), Path.mean_rate(path, p, s))


def test_spline_without_rates_is_straight() -> None:
    p = replace(cubic_pairs()[0], rate0=None, rate1=None)
    s = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)[:, None]
    a, b = (path.at(p, s, randn(6, 3, seed=3)) for path in (Spline(0.2), Straight(0.2)))
    assert_close(a.x, b.x)
    assert_close(a.velocity, b.velocity)


def chained(n: int = 7, d: int = 2, seed: int = 4) -> tuple[TimeCourse, torch.Tensor, list]:
    """Chains of cells far apart, each snapshot in an order of its own: plans are known."""
    g = torch.Generator().manual_seed(seed)
    x = randn(len(TIMES), n, d, seed=seed) + 100 * torch.arange(n, dtype=torch.float64)[:, None]
    orders = [torch.randperm(n, generator=g) for _ in TIMES]
    return TimeCourse.from_arrays([a[o] for a, o in zip(x, orders, strict=True)], TIMES), x, orders


@pytest.mark.parametrize("block_size", [1024, 7])
def test_chains_of_one_to_one_plans_are_natural_splines(block_size: int) -> None:
    """scipy's natural cubic spline through each chain, at uneven times."""
    course, x, orders = chained()
    spline = CubicSpline(TIMES, x.numpy(), bc_type="natural")
    rates = spline_rates(course, Exact(), block_size=block_size).split(7)
    for got, time, order in zip(rates, TIMES, orders, strict=True):
        assert_close(got, torch.as_tensor(spline(time, 1))[order])


def test_chains_of_independent_plans_are_the_spline_of_the_means() -> None:
    """Each neighbour is a mean: the cell itself stays, and all around it are the clouds' means."""
    course, _, _ = chained()
    means = torch.stack([s.x.mean(0) for s in course.snapshots])
    rates = spline_rates(course, Independent()).split(7)
    # The system is linear: the mean over cells of a snapshot is the spline through the means.
    spline = CubicSpline(TIMES, means.numpy(), bc_type="natural")
    for got, time in zip(rates, TIMES, strict=True):
        assert_close(got.mean(0), torch.as_tensor(spline(time, 1)))


def test_dense_and_sparse_plans_give_the_same_rates() -> None:
    course, _, _ = chained()
    plan = Exact()(*course.steps[0]).dense()
    short = TimeCourse(course.snapshots[:2])
    assert_close(spline_rates(short, Given(plan)), spline_rates(short, Exact()))
    assert_close(  # entropic plans of clouds this far apart are permutations
        spline_rates(course, Entropic(epsilon=1e-2)), spline_rates(course, Exact())
    )


def test_spline_rate_is_zero_without_partners() -> None:
    x = torch.tensor([[0.0], [1.0], [500.0]], dtype=torch.float64)
    y = torch.tensor([[2.0], [3.0], [-500.0]], dtype=torch.float64)
    course = TimeCourse.from_arrays([x, y], [0.0, 2.0])
    rates = spline_rates(course, Partial(2 / 3))
    assert_close(rates, torch.tensor([[1.0], [1.0], [0.0]] * 2, dtype=torch.float64))


def test_blocks_are_seeded_and_leave_no_cell_out() -> None:
    drift = torch.tensor([3.0, -1.0], dtype=torch.float64)
    xs = [1e-3 * randn(n, 2, seed=n) + k * drift for k, n in enumerate((90, 64, 77))]
    course = TimeCourse.from_arrays(xs)
    a, b = (spline_rates(course, Exact(), block_size=20, generator=1) for _ in range(2))
    assert torch.equal(a, b)
    assert_close(a, drift.expand(len(a), 2), rtol=0, atol=0.02)  # clouds far narrower than moves


def test_bad_block_size_is_named() -> None:
    with pytest.raises(ValueError, match="`block_size`: got 1"):
        spline_rates(chained()[0], Exact(), block_size=1)


def rotating(step: float, n: int = 40) -> TimeCourse:
    """A cloud on a circle of radius 3, `step` degrees on at each snapshot."""
    base = 0.3 * randn(n, 2, seed=5) + torch.tensor([3.0, 0.0], dtype=torch.float64)
    clouds = []
    for k in range(12):
        a = math.radians(step * k)
        turn = [[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]
        clouds.append(base @ torch.tensor(turn, dtype=torch.float64))
    return TimeCourse.from_arrays(clouds)


def test_a_rotating_cloud_is_met_between_snapshots() -> None:
    """At 60 degrees a step the spline's own error, away from the ends, is a twentieth of the
    chord's (3 (1 - cos 30°) = 0.40 from the circle): a statement about the path alone."""
    even = rotating(30.0)
    course = TimeCourse(even.snapshots[::2])
    n = len(course.snapshots[0])
    rates = spline_rates(course, Given(torch.eye(n)))
    half = torch.full((n, 1), 0.5, dtype=torch.float64)
    errors = {"spline": 0.0, "straight": 0.0}
    for k in (1, 2, 3):
        a, b = course.snapshots[k : k + 2]
        time = torch.ones(n, 1, dtype=torch.float64)
        r0, r1 = rates[k * n : (k + 1) * n], rates[(k + 1) * n : (k + 2) * n]
        p = Pairs(a.x, b.x, a.time * time, b.time * time, rate0=r0, rate1=r1)
        truth = even.snapshots[2 * k + 1].x
        for name, path in (("spline", Spline(0.0)), ("straight", Straight(0.0))):
            errors[name] += wasserstein1(path.mean(p, half), truth)
    assert errors["spline"] < errors["straight"] / 10


def small(method: FlowMatching) -> FlowMatching:
    return replace(
        method,
        net=MLPConfig(width=32, depth=2),
        batching=Batching(batch_size=32, block_size=None),
        training=Training(learning_rate=1e-2, ema=0.99, validation=0.0),
    )


def test_the_fitted_flow_bends() -> None:
    """Held out: every other snapshot of a cloud turning by 30 degrees. Splines miss by less than
    half of what straight paths do, in every interior interval together."""
    even = rotating(30.0)
    course = TimeCourse(even.snapshots[::2])
    missed = {}
    for method in (MMFM(0.05), OTCFM(0.05)):
        fit = small(method).fit(course, steps=1200, progress=False)
        missed[method.name] = sum(
            wasserstein1(
                fit.simulate(course.snapshots[k].x, [2.0 * k, 2.0 * k + 1]).final,
                even.snapshots[2 * k + 1].x,
            )
            for k in (1, 2, 3)
        )
    assert missed["mmfm"] < missed["otcfm"] / 2


def test_two_snapshots_are_fitted_as_by_straight_paths() -> None:
    course = TimeCourse(rotating(30.0).snapshots[:2])
    x = course.snapshots[0].x
    ends = [
        small(method).fit(course, steps=20, progress=False).simulate(x, [0, 1]).final
        for method in (MMFM(0.1), OTCFM(0.1))
    ]
    assert torch.equal(*ends)


def test_bad_sigma_is_named() -> None:
    with pytest.raises(ValueError, match="`sigma`: got .* expected a finite number"):
        Spline(-0.1)
