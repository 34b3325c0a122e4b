"""Wasserstein-Fisher-Rao transport: geodesics of two cells, and plans whose pairs follow them."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from scipy.integrate import quad, solve_bvp
from torch.testing import assert_close

from cases import PATHS
from cellflow.costs import Added, HalfSquared, WassersteinFisherRao, squared_distance
from cellflow.couplings import Entropic, Reach
from cellflow.paths import Cone, Pairs, Path, Straight
from cellflow.timecourse import Snapshot, TimeCourse
from oracles import F64

DELTA, SPAN = 0.7, 2.0


def pairs(distance: float, ratio: float) -> Pairs:
    """One pair in the plane, whose mass goes from 1 to `ratio`."""
    t = torch.full((1, 1), 1.5, dtype=F64)
    growth = torch.full((1, 1), math.log(ratio) / SPAN, dtype=F64)
    x0 = torch.tensor([[0.4, -1.0]], dtype=F64)
    return Pairs(x0, x0 + distance * torch.tensor([[0.6, 0.8]], dtype=F64), t, t + SPAN, growth)


def several() -> Pairs:
    some = [pairs(d, r) for d, r in ((0.5, 3.0), (1.5, 0.2), (2.0, 1e-5), (9.0, 0.5), (0.0, 4.0))]
    return Pairs(
        *(torch.cat([getattr(p, n) for p in some]) for n in ("x0", "x1", "t0", "t1")),
        growth=torch.cat([p.growth for p in some]),
    )


def column(s: float, n: int = 1) -> torch.Tensor:
    return torch.full((n, 1), s, dtype=F64)


def squared(distance: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distance of two Diracs of masses a and b: Chizat et al. 2018."""
    angle = (distance / (2 * DELTA)).clamp(max=math.pi / 2)
    return 2 * DELTA**2 * (a + b - 2 * (a * b).sqrt() * angle.cos())


@pytest.mark.parametrize(("distance", "ratio"), [(0.3, 1.0), (1.2, 0.1), (1.8, 5.0)])
def test_pairs_follow_the_numerical_geodesic(distance: float, ratio: float) -> None:
    """Euler-Lagrange equations of ½ m (x'² + δ² g²) with m = r², g = 2 r'/r, solved by scipy."""

    def slope(_, z):
        _, v, r, w = z
        return [v, -2 * v * w / r, w, r * v * v / (4 * DELTA**2)]

    def ends(a, b):
        return [a[0], a[2] - 1, b[0] - distance, b[2] - math.sqrt(ratio)]

    s = torch.linspace(0, 1, 9, dtype=F64)
    guess = torch.stack([s * distance, distance + 0 * s, 1 + s * (ratio**0.5 - 1), 0 * s])
    known = solve_bvp(slope, ends, s.numpy(), guess.numpy(), tol=1e-8, max_nodes=10_000)
    assert known.success
    p, path = pairs(distance, ratio), Cone(0.0, DELTA)
    for k in s.tolist():
        x, v, r, w = known.sol(k)
        point = path.at(p, column(k), torch.zeros(1, 2, dtype=F64))
        assert float((point.x - p.x0).norm()) == pytest.approx(x, abs=1e-6)
        assert float(point.velocity.norm()) == pytest.approx(v / SPAN, rel=1e-5)
        assert float(point.weight) == pytest.approx(r * r, rel=1e-6)
        assert float(point.growth) == pytest.approx(2 * w / r / SPAN, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("distance", "ratio"), [(0.4, 3.0), (math.pi * DELTA, 0.2), (0.0, 0.3)])
def test_energy_is_constant_and_the_squared_distance(distance: float, ratio: float) -> None:
    p, path = pairs(distance, ratio), Cone(0.0, DELTA)

    def action(s: float) -> float:
        point = path.at(p, column(s), torch.zeros(1, 2, dtype=F64))
        g, v = SPAN * point.growth, SPAN * point.velocity
        return float(point.weight * (v.square().sum() + DELTA**2 * g**2)) / 2

    one = torch.ones(1, dtype=F64)
    known = float(squared(distance * one, one, ratio * one))
    assert quad(action, 0, 1)[0] == pytest.approx(known, rel=1e-5)
    assert action(0.1) == pytest.approx(known, rel=1e-5)
    assert action(0.8) == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("path", [*PATHS.values(), Cone(0.1, DELTA)], ids=[*PATHS, "cone"])
def test_masses_go_from_end_to_end_at_the_growth_rate(path: Path) -> None:
    p, s = several(), column(0.3, 5)
    log = path.log_mass(p, column(1.0, 5))
    assert_close(path.log_mass(p, column(0.0, 5)), 0 * s)
    assert_close(log, p.growth * SPAN)
    rate = torch.func.jvp(lambda u: path.log_mass(p, u), (s,), (torch.ones_like(s),))[1]
    assert_close(path.growth(p, s), rate / SPAN)
    assert_close(path.mean_rate(p, s), Path.mean_rate(path, p, s))
    if not path.source_free:
        assert_close(path.mean(p, column(1.0, 5)), p.x1)


def test_masses_of_cells_are_quadratic_in_time() -> None:
    """So their third differences vanish; a large δ keeps the masses of pairs that do not grow."""
    p, path = several(), Cone(0.1, DELTA)
    mass = torch.cat([path.log_mass(p, column(k / 5, 5)).exp() for k in range(6)], 1)
    assert_close(mass.diff(n=3, dim=1), torch.zeros(5, 3, dtype=F64))
    still = Pairs(p.x0, p.x1, p.t0, p.t1, 0 * p.growth)
    for endless in (Cone(0.1), Cone(0.1, 1e5)):
        assert_close(endless.log_mass(still, column(0.4, 5)), column(0.0, 5))
        assert_close(endless.mean(still, column(0.4, 5)), Straight().mean(p, column(0.4, 5)))


def clouds(*masses: float) -> tuple[Snapshot, ...]:
    g, out = torch.Generator().manual_seed(0), []
    for k, mass in enumerate(masses):
        x = torch.randn(16 - 3 * k, 2, generator=g, dtype=F64) + k
        out.append(Snapshot(x, SPAN * k, torch.rand(len(x), generator=g, dtype=F64) * mass))
    return tuple(out)


@pytest.mark.filterwarnings("ignore:scipy.optimize")  # of POT
def test_pairs_of_the_plan_add_up_to_the_distance_of_the_populations() -> None:
    """The least cost of a plan with relaxed marginals, by POT, is the action of all pairs."""
    source, target = clouds(1.0, 3.0)
    a, b = source.mass, target.mass
    away = squared_distance(source.x, target.x).sqrt()
    cost = -4 * DELTA**2 * (away / (2 * DELTA)).clamp(max=1.5707).cos().log()
    known = ot.unbalanced.lbfgsb_unbalanced(
        *(z.numpy() for z in (a, b, cost)),
        0.0,
        2 * DELTA**2,
        reg_div="kl",
        regm_div="kl",
        numItermax=5000,
        stopThr=1e-14,
        log=True,
    )[1]["total_cost"]
    coupling = Reach(cost=WassersteinFisherRao(DELTA), relative_epsilon=1e-3)
    plan = coupling(source, target)
    start = plan.dense() * source.total_mass
    end = start * (plan.source_growth[:, None] + plan.target_growth).exp()
    assert_close(start.sum(1), a)
    assert_close(end.sum(0), b)
    assert float(squared(away, start, end).sum()) == pytest.approx(known, rel=1e-3)
    # So is the total mass, which bends down by the distance: here in the middle.
    angle = (away / (2 * DELTA)).clamp(max=math.pi / 2)
    half = (start + end + 2 * (start * end).sqrt() * angle.cos()).sum() / 4
    expected = float(a.sum() + b.sum()) / 2 - known / (8 * DELTA**2)
    assert float(half) == pytest.approx(expected, rel=1e-3)


def test_a_large_delta_is_balanced_transport() -> None:
    source, target = clouds(1.0, 1.0)
    wide = Reach(cost=WassersteinFisherRao(1e3), tolerance=1e-8)
    plan, epsilon = wide(source, target), wide.scale(source, target).epsilon
    assert_close(
        plan.dense(), Entropic(epsilon=epsilon)(source, target).dense(), rtol=1e-3, atol=1e-6
    )
    ratio = math.log(target.total_mass / source.total_mass)
    grown = (plan.source_growth[:, None] + plan.target_growth)[plan.dense() > 1e-4]
    assert_close(grown, torch.full_like(grown, ratio), rtol=0, atol=1e-3)


def test_delta_is_measured_on_the_course_and_handed_on() -> None:
    course = TimeCourse(clouds(1.0, 3.0, 2.0))
    costs = [s.weights @ HalfSquared()(s, t) @ t.weights for s, t in course.steps]
    known = math.sqrt(float(sum(costs)) / 4)
    cost = WassersteinFisherRao().fitted_to(course)
    assert cost.delta == pytest.approx(known)
    coupling = Reach(cost=Added(WassersteinFisherRao(), 0.1, cost="wfr")).fitted_to(course)
    assert coupling.scale(*course.steps[0]).reach == pytest.approx(2 * known)
    assert Cone(0.1).by_cost(cost).delta == cost.delta
    assert Cone(0.1, 2.0).by_cost(cost).delta == 2.0
    assert Cone(0.1).by_cost(HalfSquared()).delta is None


def test_a_term_added_to_the_cost_leaves_the_path_its_length() -> None:
    cost = Added(HalfSquared((1.0, 0.0)), cost=WassersteinFisherRao(2.0))
    assert Cone(0.1).by_cost(cost) == Cone(0.1, 2.0)
    assert Cone(0.1, 3.0).by_cost(cost) == Cone(0.1, 3.0)
    assert Cone(0.1).by_cost(HalfSquared()) == Cone(0.1)
