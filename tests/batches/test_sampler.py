"""The law of the pair sampler: what is paired, how often, and what decides it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch.testing import assert_close

from cellflow import TimeCourse
from cellflow.batches import Batching, PairSampler
from cellflow.batches.pools import _draw
from cellflow.couplings import Exact, Given, Independent


def course(sizes=(300, 200, 250), d: int = 2) -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [k + torch.randn(n, d, generator=g, dtype=torch.float64) for k, n in enumerate(sizes)]
    return TimeCourse.from_arrays(xs, [0.0, 1.0, 3.0])


def rows_of(sampler: PairSampler, epoch: int = 0) -> torch.Tensor:
    return sampler._epoch(epoch).rows


def test_a_batch_holds_pairs_of_every_interval_with_real_times() -> None:
    c = course()
    batch = PairSampler(c, Exact(), Batching(64, 64)).batch(0)
    assert batch.x0.shape == batch.x1.shape == (128, 2)
    assert batch.t0[:, 0].tolist() == [0.0] * 64 + [1.0] * 64
    assert batch.t1[:, 0].tolist() == [1.0] * 64 + [3.0] * 64
    for k in (0, 1):  # cells come from the snapshots at both ends
        part = batch.x0[64 * k : 64 * (k + 1)]
        assert bool((part[:, None] == c.snapshots[k].x[None]).all(-1).any(1).all())


@pytest.mark.parametrize("coupling", [Exact(), Independent()], ids=str)
def test_a_pool_uses_all_cells_as_evenly_as_sizes_allow(coupling) -> None:
    """300 source cells in 320 pairs: once or twice each; 200 target cells: once or twice."""
    pool = rows_of(PairSampler(course(), coupling, Batching(64, 64)))[:, 0]
    for side, n, offset in ((0, 300, 0), (1, 200, 300)):
        used = torch.bincount(pool[side] - offset, minlength=n)
        assert used.sum() == 320
        assert used.min() >= 320 // n
        assert used.max() <= -(-320 // n)


@pytest.mark.parametrize("n", [64, 65, 100, 127])
def test_no_block_meets_a_cell_twice(n: int) -> None:
    snapshot = course((n, n, n)).snapshots[0]
    for seed in range(5):
        drawn = _draw(snapshot, 10 * 64, 64, torch.Generator().manual_seed(seed)).view(10, 64)
        assert all(len(block.unique()) == 64 for block in drawn)


def test_exact_blocks_are_optimal_couplings_of_their_cells() -> None:
    """Seen whole, one block of all cells is the optimal assignment, which pairs no better."""
    from scipy.optimize import linear_sum_assignment

    c = course((128, 128, 128))
    pairs = rows_of(PairSampler(c, Exact(), Batching(128, 128)))[:, 0]
    x, y = c.snapshots[0].x, c.snapshots[1].x
    cost = torch.cdist(x, y) ** 2
    i, j = linear_sum_assignment(cost.numpy())
    assert_close(cost[pairs[0], pairs[1] - 128].sum(), cost[i, j].sum())


def test_a_seed_decides_every_batch_whatever_the_order_of_asking() -> None:
    settings = Batching(64, 64, reuse=2)
    forward = PairSampler(course(), Exact(), settings, seed=5)
    jumping = PairSampler(course(), Exact(), replace(settings, prefetch=False), seed=5)
    other = PairSampler(course(), Exact(), settings, seed=6)
    wanted = [forward.batch(k).x1 for k in range(25)]
    forward.close()
    for k in (24, 3, 11, 0):
        assert_close(jumping.batch(k).x1, wanted[k], rtol=0, atol=0)
    assert not torch.equal(other.batch(0).x1, wanted[0])


def test_reuse_reshuffles_a_pool_and_then_couples_anew() -> None:
    sampler = PairSampler(course(), Exact(), Batching(64, 64, reuse=2), seed=1)
    pools = [rows_of(sampler, e) for e in range(3)]
    sampler.close()

    def as_set(pool) -> list:
        return sorted(map(tuple, pool[:, 0].T.tolist()))

    assert as_set(pools[0]) == as_set(pools[1])
    assert not torch.equal(pools[0], pools[1])
    assert as_set(pools[0]) != as_set(pools[2])


def test_cells_come_in_proportion_to_mass() -> None:
    x = torch.arange(4.0, dtype=torch.float64)[:, None]
    mass = [torch.tensor([1.0, 2.0, 3.0, 4.0])] * 2
    c = TimeCourse.from_arrays([x, x], masses=mass)
    pool = rows_of(PairSampler(c, Independent(), Batching(100, 4)))[:, 0]
    # Systematic draws: every share of 100 is met within one.
    for side, offset in ((0, 0), (1, 4)):
        used = torch.bincount(pool[side] - offset, minlength=4)
        assert_close(used.double(), torch.tensor([10.0, 20, 30, 40]).double(), atol=1.0, rtol=0)


def one_pair(source, target):
    """A coupling of the first cells of its block alone, which tells the block."""
    plan = torch.zeros(len(source), len(target))
    plan[0, 0] = 1.0
    return Given(plan)(source, target)


def test_blocks_are_left_out_at_random_where_they_hold_more_than_an_epoch() -> None:
    """Three blocks of 40 for 100 pairs: no block is cut to 20 every time."""
    kept = set()
    for seed in range(6):
        sampler = PairSampler(course((100, 100, 100)), one_pair, Batching(50, 40), seed)
        _, counts = rows_of(sampler)[0, 0].unique(return_counts=True)
        sampler.close()
        assert counts.sum() == 100
        assert len(counts) == 3
        kept.add(int(counts.min()))
    # Twenty left out of 120 take about seven from each block; all twenty from one, never.
    assert min(kept) > 20
    assert len(kept) > 1


def test_a_given_plan_is_followed_whatever_the_block_size() -> None:
    x = torch.arange(6.0, dtype=torch.float64)[:, None]
    plan = torch.eye(6).flip(0)
    sampler = PairSampler(TimeCourse.from_arrays([x, x + 10]), Given(plan), Batching(6, 2))
    batch = sampler.batch(0)
    assert_close(batch.x1, 15 - batch.x0)


@dataclass(frozen=True)
class Failing:
    """An exact coupling that says it is a fallback."""

    def __call__(self, source, target):
        return replace(Exact()(source, target), fallback="the test said so")


def test_fallbacks_are_counted_and_announced_once() -> None:
    sampler = PairSampler(course(), Failing(), Batching(64, 64, prefetch=False))
    with pytest.warns(RuntimeWarning, match="the test said so") as record:
        sampler.batch(0)
    assert len(record) == 1
    health = sampler.health.summary()
    assert health["fallbacks"] == health["plans"] == 10
    assert health["mean_partners"] == pytest.approx(1.0)


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    PairSampler(course(), Exact(), Batching(64, 64, prefetch=False)).batch(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size`: got 0, expected an integer of at least 1"),
        ({"block_size": 1}, "`block_size`: got 1, expected an integer of at least 2"),
        ({"reuse": 0}, "`reuse`: got 0, expected an integer of at least 1"),
        ({"refresh": "always"}, "`refresh`: got 'always', expected one of"),
    ],
)
def test_batching_names_bad_settings(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batching(**settings)
