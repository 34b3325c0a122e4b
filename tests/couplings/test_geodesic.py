"""Transport along the data: on manifolds, in blocks, and against straight couplings."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import clouds
from cellflow.couplings import Entropic, Exact, Geodesic
from cellflow.fits.folder import from_facts, to_facts
from cellflow.methods import FlowMatching
from cellflow.methods.method import kinds
from cellflow.paths import Straight
from cellflow.timecourse import Snapshot


def arc(angle):
    angle = torch.as_tensor(angle, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], 1)


def normal(n, d=3, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64)


def pair(n, m=None, *, d=3, weighted=False):
    masses = (0.1, 0.1) if weighted else (None, None)
    return clouds.pair(n, m or n, d=d, masses=masses, span=2.0)


def test_pairs_follow_the_arc_and_not_the_gap():
    """On a line the monotone plan is optimal for any convex cost; chords pair the two tips."""
    x = arc(torch.linspace(0.0, 5.8, 120))
    source, target = Snapshot(x[:60], 0.0), Snapshot(x[60:], 1.0)
    plan = Geodesic(n_neighbors=2)(source, target)
    assert plan.is_permutation and plan.converged
    assert torch.equal(plan.cols[plan.rows.argsort()], torch.arange(60))
    straight = Exact()(source, target)
    assert int(straight.cols[0]) > 40
    assert straight.cost < plan.cost


@pytest.mark.parametrize("weighted", [False, True])
def test_complete_graphs_give_the_straight_plans(weighted):
    source, target = pair(40, 31 if weighted else 40, weighted=weighted)
    exact = Geodesic(n_neighbors=100)(source, target)
    assert_close(exact.dense(), Exact()(source, target).dense())
    for settings in ({"epsilon": 0.3}, {"sigma": 0.7}):
        entropic = Geodesic(n_neighbors=100, **settings)(source, target)
        assert_close(
            entropic.dense(), Entropic(**settings)(source, target).dense(), atol=1e-6, rtol=1e-3
        )


def test_geodesic_pairs_stay_in_their_cluster():
    far = torch.tensor([[1e3, 0.0, 0.0]], dtype=torch.float64)
    cells = [torch.cat([normal(20, seed=k), normal(20, seed=k + 2) + far]) for k in (0, 1)]
    source, target = (Snapshot(x, t) for x, t in zip(cells, (0.0, 1.0), strict=True))
    plan = Geodesic(n_neighbors=6)(source, target)
    assert plan.fallback is None
    assert torch.equal(plan.rows // 20, plan.cols // 20)


def test_geodesic_is_straight_where_no_path_joins_the_snapshots():
    source = Snapshot(normal(30), 0.0)
    target = Snapshot(normal(30, seed=1) + 100.0, 1.0)
    plan = Geodesic(n_neighbors=5)(source, target)
    assert plan.fallback.startswith("no path in the graph of nearest neighbours leads from source")
    assert_close(plan.dense(), Exact()(source, target).dense())


def test_entropic_says_when_the_exact_plan_replaced_it():
    source, target = pair(30)
    plan = Geodesic(epsilon=1e-3, max_iter=2)(source, target)
    assert plan.fallback.startswith("sinkhorn did not converge at epsilon 0.001: marginal error")
    assert torch.equal(plan.dense(), Geodesic()(source, target).dense())


# --- blocks -----------------------------------------------------------------------------------

BLOCKED = {
    "exact": Geodesic(block_size=32),
    "one round": Geodesic(block_size=32, rounds=1),
    "entropic": Geodesic(epsilon=0.5, block_size=32),
}


@pytest.fixture(params=BLOCKED.values(), ids=BLOCKED)
def blocked(request):
    return request.param


@pytest.mark.parametrize("sizes", [(200, 200), (200, 130), (3, 200), (200, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_carry_all_masses(blocked, sizes, weighted):
    source, target = pair(*sizes, weighted=weighted)
    plan = blocked(source, target)
    assert plan.converged and plan.fallback is None
    bound = 1e-12 if blocked.epsilon is None else 2e-6
    for attained, asked in ((plan.row_mass, source), (plan.col_mass, target)):
        assert float((attained - asked.weights).abs().sum()) < bound
    assert bool((plan.mass > 0).all())
    assert len(torch.unique(plan.rows * sizes[1] + plan.cols)) == len(plan.rows)


def test_whole_cells_make_permutations():
    source, target = pair(200)
    one = Geodesic(block_size=32, rounds=1)(source, target)
    assert one.is_permutation
    several = Geodesic(block_size=32)(source, target)
    assert 1.0 < one.partners * 3 < several.partners <= 8


def test_block_plans_ignore_order_and_scale(blocked):
    source, target = pair(150, 110, weighted=True)
    plan = blocked(source, target).dense()
    p, q = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (150, 110))
    moved = blocked(source.subset(p), target.subset(q)).dense()
    assert_close(moved, plan[p][:, q], atol=1e-8, rtol=1e-4)
    if blocked.epsilon is None:
        wide = [Snapshot(s.x * 1e3, s.time, s.mass) for s in (source, target)]
        assert_close(blocked(*wide).dense(), plan)


def test_wider_data_and_sigma_give_the_same_plan():
    source, target = pair(40)
    wide = [Snapshot(s.x * 1e3, s.time) for s in (source, target)]
    plan, scaled = Geodesic(sigma=0.5)(source, target), Geodesic(sigma=500.0)(*wide)
    assert_close(scaled.dense(), plan.dense(), atol=1e-8, rtol=1e-4)


def test_seeds_decide_the_blocks():
    source, target = pair(100)
    plans = [
        Geodesic(block_size=20, rounds=1, seed=seed)(source, target).dense() for seed in (0, 0, 1)
    ]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])


def test_more_rounds_come_closer_to_the_whole_plan():
    """Averaging partitions must not bias the plan: its cost stays that of blocks."""
    source, target = pair(300)
    costs = [
        np.mean([Geodesic(block_size=30, rounds=r, seed=s)(source, target).cost for s in range(4)])
        for r in (1, 4)
    ]
    whole = Geodesic()(source, target).cost
    assert costs[1] == pytest.approx(costs[0], rel=0.1)
    assert min(costs) > whole


def test_no_matrix_of_all_pairs_is_made():
    source, target = pair(2000, d=2)
    coupling = Geodesic(block_size=64, rounds=2)
    coupling(*pair(70))
    tracemalloc.start()
    try:
        coupling(source, target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2000 * 2000 * 8 / 3


def test_geodesic_is_rebuilt_from_its_settings():
    coupling = Geodesic(sigma=0.5, seed=4)
    assert coupling.needs_whole
    method = FlowMatching(coupling, Straight())
    text = json.dumps(to_facts(method))
    assert from_facts(json.loads(text), kinds(), FlowMatching) == method


BAD = {
    "both": (lambda: Geodesic(1.0, 1.0), ValueError, "`sigma, epsilon`: got both, expected at"),
    "sigma": (lambda: Geodesic(0.0), ValueError, "`sigma`: got 0.0, expected a finite number in"),
    "epsilon": (lambda: Geodesic(epsilon=-1.0), ValueError, "`epsilon`: got -1.0"),
    "n_neighbors": (lambda: Geodesic(n_neighbors=0), ValueError, "`n_neighbors`: got 0"),
    "block_size": (lambda: Geodesic(block_size=1), ValueError, "`block_size`: got 1"),
    "rounds": (lambda: Geodesic(rounds=0), ValueError, "`rounds`: got 0"),
    "seed": (lambda: Geodesic(seed=1.5), TypeError, "`seed`: got 1.5, expected an integer"),
    "tolerance": (lambda: Geodesic(tolerance=0.0), ValueError, "`tolerance`: got 0.0"),
    "max_iter": (lambda: Geodesic(max_iter=0), ValueError, "`max_iter`: got 0"),
}


@pytest.mark.parametrize(("call", "error", "text"), BAD.values(), ids=BAD)
def test_geodesic_refuses_bad_settings(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_sigma_needs_a_later_target():
    source, target = pair(10)
    with pytest.raises(ValueError, match="`span`: got -2.0"):
        Geodesic(sigma=1.0)(target, source)
