"""Plans within a reach: closed forms, POT, exact masses, what the data allow, refusals."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch

from cellflow.couplings import Exact, Reach
from cellflow.timecourse import Snapshot, TimeCourse


def cloud(
    n: int, shift: float = 0.0, *, seed: int = 0, time: float = 0.0, dim: int = 2
) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    x[:, 0] += shift
    return Snapshot(x, time)


def grown(plan) -> torch.Tensor:
    return plan.source_growth[:, None] + plan.target_growth


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_share_that_moves_between_two_cells(distance):
    """Against a detour: of mass that could stay or move, e^{-d²/2r²} of it moves, as ε vanishes."""
    x = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    y = torch.tensor([[distance], [100.0]], dtype=torch.float64)
    coupling = Reach(1.0, scales=((0.0, 1.0, 1e-3),), tolerance=1e-9)
    plan = coupling(Snapshot(x, 0.0), Snapshot(y, 1.0))
    # Rows are normalised to the weights; what was lost is in the growth of both ends.
    moved = float((-plan.source_growth[0] + plan.source_growth[1]).exp())
    assert moved == pytest.approx(math.exp(distance**2 / 4 * 2), rel=0.02)


def test_plan_is_that_of_pot():
    """Normalised, it is the KL-relaxed plan of POT's Sinkhorn for the half squared distance."""
    source, target = cloud(120), cloud(110, 1.5, seed=1, time=1.0)
    coupling = Reach(1.3, tolerance=1e-9)
    (time, reach, epsilon) = coupling.scale(source, target)
    assert (time, reach) == (0.0, 1.3)
    plan = coupling(source, target)
    cost = 0.5 * torch.cdist(source.x, target.x).square().numpy()
    a, b = np.full(120, 1 / 120), np.full(110, 1 / 110)
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, epsilon, reach**2 / 2, reg_type="kl", numItermax=20_000, stopThr=1e-12
    )
    share = (plan.matrix * plan.source_growth.exp()[:, None]).numpy()
    np.testing.assert_allclose(share, theirs / theirs.sum(), atol=1e-7)


def test_masses_end_at_both_snapshots():
    """Rows start with the source's weights; what pairs end with sums to the target's."""
    source, target = cloud(150), cloud(130, 1.5, seed=1, time=1.0)
    plan = Reach(1.0)(source, target)
    np.testing.assert_allclose(plan.matrix.sum(1), source.weights, rtol=1e-9)
    ends = (plan.matrix * grown(plan).exp()).sum(0)
    np.testing.assert_allclose(ends, target.weights, rtol=1e-6)


def test_composition_changes_in_place():
    """Clusters out of reach: nothing crosses, each grows by the ratio of its shares."""
    x = torch.cat([cloud(100).x, cloud(100, 50.0, seed=1).x])
    y = torch.cat([cloud(160, seed=2).x, cloud(40, 50.0, seed=3).x])
    plan = Reach()(Snapshot(x, 0.0), Snapshot(y, 1.0))
    assert float(plan.matrix[:100, 160:].sum()) < 1e-6
    factors = (plan.matrix * grown(plan).exp()).sum(1) / plan.matrix.sum(1)
    assert float(factors[:100].mean()) == pytest.approx(1.6, rel=0.01)
    assert float(factors[100:].mean()) == pytest.approx(0.4, rel=0.01)


def test_infinite_reach_is_balanced():
    source, target = cloud(120), cloud(120, 2.0, seed=1, time=1.0)
    plan = Reach(math.inf)(source, target)
    np.testing.assert_allclose(plan.matrix.sum(0), target.weights, atol=1e-5)
    assert float(grown(plan).abs().max()) < 1e-2


def test_few_cells_are_balanced():
    """Fewer cells than a hundred say nothing of who grew."""
    assert Reach().scale(cloud(34), cloud(400, 1.0, seed=1)).reach is None
    assert Reach().scale(cloud(200), cloud(400, 1.0, seed=1)).reach is not None


def test_reach_follows_what_samples_differ_by():
    """Half its square is four costs between halves, at least 0.3 of the cost between snapshots."""
    near = cloud(600, dim=5), cloud(600, 0.1, seed=1, time=1.0, dim=5)
    halves = [
        Exact()(Snapshot(s.x[:300], 0.0), Snapshot(s.x[300:], 1.0)).cost for s in near
    ]  # other halves than those that it draws
    assert Reach().scale(*near).reach ** 2 / 2 == pytest.approx(2 * sum(halves), rel=0.15)
    far = cloud(600), cloud(600, 30.0, seed=1, time=1.0)
    cost = Exact()(*far).cost
    assert Reach().scale(*far).reach ** 2 / 2 == pytest.approx(0.3 * cost, rel=1e-6)


def test_noise_of_trailing_components_counts_for_nothing():
    """Ninety faint components change the reach of five little."""
    pair = cloud(400, dim=5), cloud(400, 1.0, seed=1, time=1.0, dim=5)
    faint = [
        Snapshot(torch.cat([s.x, 0.3 * cloud(400, seed=k + 7, dim=90).x], 1), s.time)
        for k, s in enumerate(pair)
    ]
    few, many = Reach().scale(*pair).reach, Reach().scale(*faint).reach
    assert many == pytest.approx(few, rel=0.25)


def test_scales_are_measured_once_on_the_course():
    course = TimeCourse((cloud(200), cloud(200, 1.0, seed=1, time=1.0), cloud(200, 5.0, time=3.0)))
    fitted = Reach().fitted_to(course)
    assert [s.time for s in fitted.scales] == [0.0, 1.0]
    block = Snapshot(course.snapshots[1].x[:20], 1.0), Snapshot(course.snapshots[2].x[:20], 3.0)
    assert fitted.scale(*block) == Reach().scale(*course.snapshots[1:])


def test_units_do_not_matter():
    source, target = cloud(150), cloud(150, 1.0, seed=1, time=1.0)
    one = Reach()(source, target)
    other = Reach()(Snapshot(100 * source.x, 0.0), Snapshot(100 * target.x, 1.0))
    np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-9)


@pytest.mark.parametrize("reach", [0.0, -1.0, float("nan")])
def test_bad_reach_is_refused(reach):
    with pytest.raises(ValueError, match="`reach`: got"):
        Reach(reach)
