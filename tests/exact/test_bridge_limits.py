"""Where Schrödinger bridges end: without noise in OT-CFM, in nothing but noise without a plan."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.couplings import Entropic, Exact, Independent
from cellflow.networks import MLPConfig
from cellflow.training.trainer import Training
from oracles import F64, matched, relative_error

SOURCE = toys.Gaussian([0.0, 1.0], [[1.0, 0.6], [0.6, 0.8]])
TARGET = toys.Gaussian([2.0, -1.0], [[0.5, -0.3], [-0.3, 0.9]])
#: No clipping: its bound is that of both networks' gradients together.
PARTS = {
    "net": MLPConfig(32, 2),
    "batching": Batching(64, None, prefetch=False),
    "training": Training(learning_rate=5e-3, clip=1e9, validation=0.0),
}


def ends(n: int = 60, m: int = 60, span: float = 2.0) -> tuple[Snapshot, Snapshot]:
    return Snapshot(matched(SOURCE, n, 0), 1.0), Snapshot(matched(TARGET, m, 1), 1.0 + span)


def course() -> TimeCourse:
    return TimeCourse((*ends(), Snapshot(matched(SOURCE, 60, 2), 3.5)))


# --- no noise --------------------------------------------------------------------------------


def test_without_noise_the_plan_is_that_of_optimal_transport() -> None:
    source, target = ends()
    exact = Exact()(source, target)
    gaps = []
    for sigma in (0.3, 0.1, 0.03, 0.002):
        plan = Entropic(sigma=sigma, tolerance=1e-9)(source, target)
        assert plan.fallback is None
        gaps.append(float((plan.dense() - exact.dense()).abs().sum()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6
    assert plan.partners == pytest.approx(1.0, abs=1e-6)
    assert plan.cost == pytest.approx(exact.cost, rel=1e-6)


def test_without_noise_the_velocity_is_that_of_optimal_transport_flow_matching() -> None:
    """The same pairs, times and first weights: the same network, up to an error of order sigma."""
    c = course()
    flow = cf.OTCFM(0.0, **PARTS).fit(c, steps=150, progress=False)
    x, gaps = c.snapshots[0].x, []
    for sigma in (0.1, 0.01, 0.001):
        bridge = cf.SF2M(sigma, coupling="exact", **PARTS).fit(c, steps=150, progress=False)
        times = (1.2, 2.0, 2.8, 3.1, 3.4)
        gaps.append(max(relative_error(bridge.velocity(t, x), flow.velocity(t, x)) for t in times))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.005  # draws of time keep a thousandth of the interval from its ends
    # And the paths are its lines, whichever solver draws them.
    lines = flow.simulate(x, [1.0, 2.0, 3.5]).x
    for solver in ("rk4", "sra1"):
        path = bridge.simulate(x, [1.0, 2.0, 3.5], solver=solver, max_step=0.02).x
        assert_close(path, lines, rtol=0, atol=0.05)


def test_the_exact_bridge_tends_to_the_displacement_interpolation() -> None:
    still = toys.gaussian_bridge(SOURCE, TARGET, span=2.0, sigma=1e-5)
    for s in (0.0, 0.3, 0.8, 1.0):
        law = toys.gaussian_displacement(s, SOURCE, TARGET)
        assert_close(still.at(2.0 * s).mean, law.mean)
        assert_close(still.at(2.0 * s).cov, law.cov, rtol=0, atol=1e-8)


# --- nothing but noise -----------------------------------------------------------------------


@pytest.mark.parametrize("masses", ["equal", "unequal"])
@pytest.mark.parametrize("span", [0.5, 2.0])
def test_with_nothing_but_noise_cells_are_paired_at_random(span: float, masses: str) -> None:
    source, target = ends(40, 70, span)
    if masses == "unequal":
        source = Snapshot(source.x, 1.0, torch.linspace(1, 5, 40, dtype=F64))
        target = Snapshot(target.x, 1.0 + span, torch.linspace(3, 1, 70, dtype=F64))
    gaps = []
    for sigma in (3.0, 30.0, 3000.0):
        plan = Entropic(sigma=sigma)(source, target)
        product = Independent()(source, target)
        gaps.append(float((plan.dense() - product.dense()).abs().sum()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6
    assert plan.partners == pytest.approx(product.partners, rel=1e-6)
    if masses == "equal":
        assert plan.partners == pytest.approx(70.0, rel=1e-6)
    assert plan.cost == pytest.approx(product.cost, rel=1e-6)


def test_the_exact_bridge_forgets_where_it_came_from() -> None:
    wild = toys.gaussian_bridge(SOURCE, TARGET, span=2.0, sigma=1e4)
    assert_close(wild.cross_cov, torch.zeros(2, 2, dtype=F64), rtol=0, atol=1e-7)
