"""Populations whose births and deaths are known: rates, and masses wherever they are answered."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse
from cellflow.batches import Batching, PairSampler
from cellflow.couplings import Coupling, Independent
from cellflow.methods import UBSB, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.plans import Plan
from cellflow.plans.forms import PairPlan, ProductPlan
from cellflow.training.trainer import Training
from oracles import F64

RATES, TIMES, START = (0.5, -0.4), (0.0, 0.5, 2.5), (1.0, 2.0)
AWAY = torch.tensor([5.0, 0.0], dtype=F64)
PARTS = {
    "net": MLPConfig(48, 2),
    "training": Training(learning_rate=1e-2, ema=0.99, validation=0.0),
}


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def known(t: float) -> torch.Tensor:
    """Mass of both clusters at `t`."""
    rates = torch.tensor(RATES, dtype=F64)
    return torch.tensor(START, dtype=F64) * (rates * t).exp()


# --- pairs -----------------------------------------------------------------------------------


def telling(source: Snapshot, target: Snapshot) -> Plan:
    """Random pairs whose log growth says who they are."""
    plan = Independent()(source, target)
    growth = {"source_growth": source.x[:, 0].double(), "target_growth": target.x[:, 1].double()}
    return ProductPlan(a=plan.a, b=plan.b, cost=plan.cost, **growth)


@pytest.mark.parametrize("block_size", [16, None], ids=["blocks", "whole"])
def test_every_pair_brings_its_own_rate(block_size: int | None) -> None:
    """The log growth of both cells, over the time between them, in every epoch and order."""
    course = TimeCourse.from_arrays([normal(40 + k, k) for k in range(3)], TIMES)
    sampler = PairSampler(course, telling, Batching(16, block_size, 2, prefetch=False))
    for step in (0, 1, 2, 5, 9, 14):
        pairs = sampler.batch(step)
        assert pairs.growth.shape == (32, 1)
        expected = (pairs.x0[:, :1] + pairs.x1[:, 1:]) / pairs.span
        assert_close(pairs.growth, expected)
    sampler.close()


def test_mass_is_conserved_where_a_plan_says_nothing_of_growth() -> None:
    """A coupling of the user's own may know of growth in one interval only."""

    def late(source: Snapshot, target: Snapshot) -> Plan:
        return (Independent() if source.time == 0.0 else telling)(source, target)

    course = TimeCourse.from_arrays([normal(40, k) for k in range(3)], TIMES)
    pairs = PairSampler(course, late, Batching(16, 16, prefetch=False)).batch(0)
    assert not pairs.growth[:16].any()
    assert_close(pairs.growth[16:], (pairs.x0[16:, :1] + pairs.x1[16:, 1:]) / 2.0)


# --- two clusters ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters() -> cf.Fit:
    """Two clusters, one growing and one dying at known rates, at uneven times."""
    xs, masses = [], []
    for k, t in enumerate(TIMES):
        xs.append(torch.cat([normal(200, 2 * k) + AWAY, normal(200, 2 * k + 1) - AWAY]))
        masses.append((known(t) / 200).repeat_interleave(200))
    course = TimeCourse.from_arrays(xs, TIMES, masses=masses)
    # Weaker than the default: in the second interval one cluster gains six times what the other
    # does, which the default would blame in part on cells that cross.
    method = UBSB(0.5, relaxation=0.2, batching=Batching(128, None, prefetch=False), **PARTS)
    return method.fit(course, steps=1200, dtype=torch.float32, progress=False)


def test_rates_of_growth_are_recovered(clusters) -> None:
    for t in (0.1, 0.3, 0.7, 1.5, 2.4):
        for side, rate in ((AWAY, RATES[0]), (-AWAY, RATES[1])):
            found = clusters.growth(t, normal(300, 9) + side)
            assert float(found.mean()) == pytest.approx(rate, abs=0.05)
            # Cells on the outside are far from their partners, and so gain less.
            assert float(found.std()) < 0.2


@pytest.mark.parametrize("solver", ["rk4", "euler_maruyama", "sra1"])
def test_masses_follow_through_simulation(clusters, solver) -> None:
    first = clusters.course.snapshots[0]
    path = clusters.simulate(first.x, [0.0, 0.4, 1.0, 2.5], solver=solver)
    right = first.x[:, 0] > 0
    for t, gained in zip(path.times.tolist(), path.mass, strict=True):
        mass = first.mass * gained
        found = torch.stack([mass[right].sum(), mass[~right].sum()])
        assert_close(found.double(), known(t), rtol=0.02, atol=0)


@pytest.mark.parametrize("solver", ["rk4", "sra1"])
def test_masses_of_ancestors_are_less_than_those_of_their_descendants(clusters, solver) -> None:
    last = clusters.course.snapshots[2]
    gained = clusters.simulate(last.x, [2.5, 0.5, 0.0], solver=solver).mass[-1]
    right = last.x[:, 0] > 0
    for part, rate in ((right, RATES[0]), (~right, RATES[1])):
        log = float(gained[part].double().log().mean())
        assert log == pytest.approx(-2.5 * rate, abs=0.03)


@pytest.mark.parametrize("t", [0.25, 1.2, 2.2])
def test_interpolated_snapshots_have_the_mass_of_their_time(clusters, t: float) -> None:
    cells = clusters.interpolate(t)
    right = cells.x[:, 0] > 0
    found = torch.stack([cells.mass[right].sum(), cells.mass[~right].sum()])
    assert_close(found.double(), known(t), rtol=0.02, atol=0)


def test_cells_stay_in_their_cluster(clusters) -> None:
    """Masses explain the shares of the clusters; without growth, cells would have to cross."""
    first = clusters.course.snapshots[0]
    end = clusters.simulate(first.x, [0.0, 2.5], solver="sra1").final
    assert float((first.x[:, 0].sign() == end[:, 0].sign()).double().mean()) > 0.99
    assert_close(end[:200].double().mean(0), AWAY, rtol=0, atol=0.35)


# --- a mass that is exponential in the state -------------------------------------------------

SLOPE = 0.8


class InPlace(Coupling):
    """Cells stay where they are, and grow the faster the further right."""

    needs_whole = True

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        index = torch.arange(len(source))
        return PairPlan(
            rows=index,
            cols=index,
            mass=source.weights,
            size=(len(source), len(source)),
            cost=0.0,
            source_growth=(target.time - source.time) * SLOPE * source.x[:, 0].double(),
            target_growth=torch.zeros(len(source), dtype=F64),
        )


def test_growth_that_is_linear_in_the_state_makes_mass_exponential_in_it() -> None:
    x = torch.linspace(-2, 2, 301, dtype=F64)[:, None]
    course = TimeCourse.from_arrays(
        [x, x], [1.0, 3.0], masses=[x[:, 0] * 0 + 1.0, (2 * SLOPE * x[:, 0]).exp()]
    )
    method = FlowMatching(InPlace(), Straight(0.0), growth=True, **PARTS)
    fit = method.fit(course, steps=800, progress=False)
    for t in (1.0, 1.7, 2.9):
        assert float(fit.velocity(t, x).abs().max()) < 0.1
        assert_close(fit.growth(t, x), SLOPE * x[:, 0], rtol=0, atol=0.05)
        exact = (SLOPE * x[:, 0] * (t - 1.0)).exp()
        if t > 1.0:
            mass = fit.interpolate(t).mass
            assert float(mass.sum() / exact.sum()) == pytest.approx(1.0, abs=0.01)
            assert_close(mass, exact, rtol=0.1, atol=0)
