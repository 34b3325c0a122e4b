from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cellflow.batches import Batching
from cellflow.couplings import Exact, Hierarchical
from cellflow.couplings.hierarchical import sorted_clouds
from cellflow.methods import OTCFM
from cellflow.saving import load
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.transport.clouds import duality_gap as certificate
from cellflow.transport.clouds import matching
from cellflow.transport.clouds.duality_gap import duality_gap
from cellflow.transport.clouds.equal_mass_pieces import Entries
from clouds import snapshots


def swept(source, target, sweeps, **options):
    return Hierarchical(64, sweeps=sweeps, tolerance=0.0, **options)(source, target)


# --- one to one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 5, 50])
def test_hierarchical_cost_is_near_the_optimum_above_its_bound(d):
    source, target = snapshots(1500, d=d)
    plan = Hierarchical(sweeps=60, tolerance=0.0)(source, target)
    best = Exact()(source, target).cost
    assert plan.is_permutation
    assert best * (1 - 1e-9) <= plan.cost <= best * {1: 1.001, 5: 1.003, 50: 1.005}[d]
    assert 0.9 * best <= plan.lower_bound <= best
    assert plan.gap == pytest.approx(1 - plan.lower_bound / plan.cost)


def test_snapshots_of_one_block_are_coupled_exactly():
    source, target = snapshots(200)
    plan, exact = Hierarchical()(source, target), Exact()(source, target)
    assert torch.equal(plan.cols, exact.cols)
    assert plan.lower_bound == pytest.approx(exact.cost)
    assert plan.gap == pytest.approx(0.0, abs=1e-8)


def test_cost_falls_with_every_sweep():
    source, target = snapshots()
    costs = [swept(source, target, k).cost for k in range(1, 12)]
    assert all(after <= before for before, after in pairwise(costs))
    assert costs[-1] < 0.98 * costs[0]


def test_no_block_of_the_last_sweep_can_be_assigned_better():
    """By the exact solver: with a fine enough increment blocks are optimal."""
    from cellflow.transport.assignment.solve import assign_blocks
    from cellflow.transport.clouds import _block_auction

    source, target = snapshots(512)
    x, y = source.x.float().numpy(), target.x.float().numpy()
    rows, cols = np.arange(512), np.random.default_rng(0).permutation(512)
    order, starts = np.random.default_rng(1).permutation(512), np.array([0, 128, 256, 512])
    before, price, gain = cols.copy(), np.zeros(512, np.float32), np.zeros(3)
    steps = np.array([0.1, 0.02, 0.004, 0.0008, 0.00016, 1e-5], np.float32)
    _block_auction.reassign((x, y), (rows, cols), price, (order, starts), steps, (0, 3), gain)
    for b in range(3):
        block = order[starts[b] : starts[b + 1]]
        assert sorted(cols[block]) == sorted(before[block])
        left, right = x[block], y[before[block]]
        best = 0.5 * (left - right[assign_blocks(left[None], right[None])[0][0]]) ** 2
        old, new = (0.5 * ((x[block] - y[c[block]]) ** 2).sum() for c in (before, cols))
        assert new == pytest.approx(best.sum(), rel=1e-4)
        assert gain[b] == pytest.approx(old - new, rel=1e-3)


def test_gaussians_reach_the_closed_form():
    """x → A x + b with A positive is optimal; its cost is the Gelbrich bound of the samples."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 4, generator=g, dtype=torch.float64)
    half = torch.randn(4, 4, generator=g, dtype=torch.float64)
    matrix = half @ half.T + 0.1 * torch.eye(4, dtype=torch.float64)
    order = torch.randperm(2000, generator=g)
    plan = Hierarchical()(Snapshot(x, 0.0), Snapshot((x @ matrix + 3.0)[order], 1.0))
    expected = 0.5 * float((x @ matrix + 3.0 - x).square().sum(1).mean())
    assert plan.cost == pytest.approx(expected, rel=1e-6)
    assert plan.lower_bound == pytest.approx(expected, rel=1e-5)
    assert float((order[plan.cols] == plan.rows).double().mean()) > 0.99


def test_alignment_is_the_optimal_map_of_gaussians():
    source, target = snapshots(4000)
    x, y = source.x.float().numpy(), target.x.float().numpy()
    a = matching.align(x, y)
    (_, cov_x), (_, cov_y) = matching.moments(x), matching.moments(y)
    assert_close(a.forward @ cov_x @ a.forward, cov_y, rtol=1e-3, atol=1e-3)
    assert_close(a.forward @ a.back, torch.eye(5, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert_close(matching.moments(x)[1].numpy(), np.cov(x.T.astype(float), bias=True))


@pytest.mark.parametrize("masses", [False, True])
def test_hierarchical_plan_does_not_depend_on_threads_or_order(masses):
    source, target = snapshots(900, 900 if not masses else 700, masses=masses)
    before = torch.get_num_threads()
    plans = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            plans.append(swept(source, target, 3).dense())
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*plans)
    g = torch.Generator().manual_seed(3)
    p, q = (torch.randperm(len(s), generator=g) for s in (source, target))
    moved = swept(source.subset(p), target.subset(q), 3)
    assert_close(moved.dense(), plans[0][p][:, q], rtol=0, atol=1e-15)


def test_sampled_certificate_is_above_the_full_gap(monkeypatch):
    """Above the gap of all rows, whichever rows are drawn, and not by much."""
    monkeypatch.setattr(certificate, "FULL", 0)
    source, target = snapshots(1500)
    cells = sorted_clouds(source, target)
    x, y = cells.x, cells.y
    options = {"run": matching.Run(torch.Generator().manual_seed(0))}
    alignment = matching.align(x, y)
    found = matching.match((x, y), alignment, block_size=64, sweeps=6, tolerance=0.0, **options)
    score = -(x.astype(float) @ y.T.astype(float)) - found.price
    slack = score[np.arange(1500), found.cols] - score.min(1)
    pairs = Entries(np.arange(1500), found.cols, np.full(1500, 1 / 1500))
    options["price"] = found.price
    gaps = [duality_gap((x, y), pairs, (cells.a, cells.b), **options) for _ in range(20)]
    assert slack.mean() < min(gaps)
    assert max(gaps) < slack.mean() + 6 * slack.std() / certificate.ROWS**0.5
    best = Exact()(source, target).cost
    assert Hierarchical(64)(source, target).lower_bound <= best


def test_seeds_decide_the_directions():
    source, target = snapshots()
    first, again, other = (swept(source, target, 2, seed=s).cols for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_converged_says_that_the_last_sweeps_gained_little():
    source, target = snapshots()
    assert not swept(source, target, 3).converged
    assert not Hierarchical(64, sweeps=1, tolerance=0.5)(source, target).converged
    assert Hierarchical(64, sweeps=60, tolerance=1e-2)(source, target).converged


def test_memory_is_linear_in_the_cells():
    g = torch.Generator().manual_seed(0)
    peaks = []
    for n in (20_000, 80_000):
        pair = [Snapshot(torch.randn(n, 3, generator=g), t) for t in (0.0, 1.0)]
        tracemalloc.start()
        Hierarchical(64, sweeps=1)(*pair)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]
    assert peaks[1] < 80_000 * 1000


# --- as a coupling of a method ------------------------------------------------------------------


def test_hierarchical_trains_on_whole_snapshots_and_is_saved(tmp_path):
    source, target = snapshots(400, 300)
    course = TimeCourse((source, target))
    method = replace(OTCFM(batching=Batching(64, 32)), coupling=Hierarchical(64))
    fit = method.fit(course, steps=10, progress=False)
    loaded = load(fit.save(tmp_path / "fit"))
    assert loaded.method.coupling == Hierarchical(64)


def test_blocks_are_neighbourhoods_of_equal_size():
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    pairs = np.arange(1000), np.random.default_rng(1).permutation(1000)
    root, run = torch.eye(3, dtype=torch.float64), matching.Run(torch.Generator().manual_seed(0))
    order, starts = matching.tree((x, x), pairs, leaves=7, root=root, run=run)
    assert sorted(order) == list(range(1000))
    assert len(starts) == 8
    assert np.diff(starts).min() >= 142
    assert np.diff(starts).max() <= 144
    middle = (x[pairs[0]] + x[pairs[1]])[order]
    within = sum(middle[a:b].var(0).sum() * (b - a) for a, b in pairwise(starts)) / 1000
    assert within < 0.6 * middle.var(0).sum()
