"""Fast ways of making pairs against the plain loop that they stand for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow import TimeCourse
from cellflow.batches import Batching, PairSampler
from cellflow.batches.pools import AHEAD
from cellflow.couplings import Entropic, Exact, Independent, Unbalanced
from cellflow.timecourse import Snapshot

SIZE = 24


def course(n: int = 240) -> TimeCourse:
    g = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, 2, generator=g, dtype=torch.float64) for _ in range(2))
    return TimeCourse.from_arrays([x, 1.5 * y + torch.tensor([1.0, 0.0]), x - 1.0])


def plain_loop(c: TimeCourse, batches: int) -> torch.Tensor:
    """Squared lengths of the pairs of minibatches as published: draw, solve, pair."""
    rng = np.random.default_rng(0)
    x, y = (s.x.numpy() for s in c.snapshots[:2])
    lengths = []
    for _ in range(batches):
        i, j = (rng.choice(len(a), SIZE, replace=False) for a in (x, y))
        cost = ot.dist(x[i], y[j])
        plan = ot.emd(ot.unif(SIZE), ot.unif(SIZE), cost)
        lengths.append(cost[np.nonzero(plan)])
    return torch.as_tensor(np.stack(lengths))


def lengths(sampler: PairSampler, batches: int) -> torch.Tensor:
    out = []
    for k in range(batches):
        pairs = sampler.batch(k)
        out.append((pairs.x1 - pairs.x0)[:SIZE].square().sum(1))
    sampler.close()
    return torch.stack(out)


def test_each_pair_follows_the_law_of_the_minibatch_loop_however_often_plans_are_made() -> None:
    """First two moments of squared lengths, within four standard errors of 600 minibatches."""
    c, n = course(), 600
    loop = plain_loop(c, n)
    settings = {"batch_size": SIZE, "block_size": SIZE, "prefetch": False}
    for refresh in ("pool", "every_step"):
        batching = Batching(**settings, reuse=1, refresh=refresh)
        ours = lengths(PairSampler(c, Exact(), batching, seed=1), n)
        for power in (1, 2):
            a, b = loop.pow(power).mean(1), ours.pow(power).mean(1)
            error = ((a.var() + b.var()) / n).sqrt()
            assert float((a.mean() - b.mean()).abs()) < 4 * float(error), (refresh, power)
    random = lengths(PairSampler(c, Independent(), Batching(**settings), seed=1), n)
    assert float(random.mean()) > 1.5 * float(loop.mean())  # which such a test would see


def test_every_step_has_one_plan_of_fresh_cells_for_itself() -> None:
    """Its pairs are the exact plan of its own cells, as the loop's; those of a pool are not."""
    c = course()
    apart = 0.0
    for refresh in ("every_step", "pool"):
        batching = Batching(SIZE, SIZE, reuse=1, refresh=refresh)
        sampler = PairSampler(c, Exact(), batching, seed=2)
        for k in range(2 * AHEAD + 1):
            pairs = sampler.batch(k)
            x, y = pairs.x0[SIZE:], pairs.x1[SIZE:]  # the second interval
            assert len(x.unique(dim=0)) == len(y.unique(dim=0)) == SIZE or refresh == "pool"
            best = ot.emd2(ot.unif(SIZE), ot.unif(SIZE), ot.dist(x.numpy(), y.numpy())) * SIZE
            excess = float((x - y).square().sum()) / best - 1
            assert excess < 1e-9 or refresh == "pool"
            apart = max(apart, excess)
        sampler.close()
    assert apart > 0.01


def test_fresh_steps_cut_a_batch_from_as_many_small_blocks_as_it_needs() -> None:
    """Ten cells in the smallest snapshot: 24 pairs take three plans of ten."""
    x = torch.arange(40.0, dtype=torch.float64)[:, None]
    c = TimeCourse.from_arrays([x, x[:10]])
    sampler = PairSampler(c, Exact(), Batching(SIZE, refresh="every_step", prefetch=False))
    assert sampler.batch(3).x0.shape == (SIZE, 1)
    # Its own blocks are cut from one shuffle of the forty cells: none is met twice.
    assert len(sampler.batch(0).x0.unique()) == SIZE
    assert sampler.health.plans == 3 * AHEAD


@pytest.mark.parametrize("refresh", ["pool", "every_step"])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(refresh: str, workers: int) -> None:
    c = course()
    batching = Batching(SIZE, 8, reuse=1, refresh=refresh)
    alone = PairSampler(c, Exact(), replace(batching, prefetch=False), seed=4)
    helped = PairSampler(c, Exact(), batching, seed=4, workers=workers)
    for k in range(25):
        assert_close(helped.batch(k).x1, alone.batch(k).x1, rtol=0, atol=0)
    helped.close()
    assert helped.health.waited > 0 < helped.health.seconds


def test_pool_is_complete_though_its_only_worker_is_busy() -> None:
    c = course()
    sampler = PairSampler(c, Exact(), Batching(SIZE, 8, reuse=1), seed=4)
    with ThreadPoolExecutor(1) as pool:
        release = torch.multiprocessing.Event()
        pool.submit(release.wait)
        sampler._executor = pool
        for k in range(12):
            sampler.batch(k)
        release.set()
        sampler.close()


@pytest.mark.parametrize("coupling", [Exact(), Entropic(epsilon=0.5), Unbalanced(epsilon=0.5)])
def test_many_plans_are_those_made_one_by_one(coupling) -> None:
    g = torch.Generator().manual_seed(0)
    for sizes in ([(12, 12)] * 3, [(12, 12), (7, 9)]):
        cells = [
            tuple(
                Snapshot(torch.randn(n, 3, generator=g).double(), float(t)) for t, n in enumerate(s)
            )
            for s in sizes
        ]
        together = coupling.many(*zip(*cells, strict=True))
        for (source, target), plan in zip(cells, together, strict=True):
            alone = coupling(source, target)
            assert_close(plan.dense(), alone.dense(), rtol=0, atol=1e-6)
            assert plan.cost == pytest.approx(alone.cost, rel=1e-6)
            assert plan.converged and alone.converged
            assert plan.is_permutation == alone.is_permutation


def test_a_pool_of_a_large_snapshot_holds_part_of_it_and_serves_once(monkeypatch) -> None:
    from cellflow.batches import sampler as module

    monkeypatch.setattr(module, "MOST_STEPS", 3)
    sampler = PairSampler(course(), Exact(), Batching(SIZE, SIZE), seed=5)
    assert sampler.steps_per_epoch == 3  # of the ten that 240 cells would take
    seen = [sampler.batch(k).x0[:SIZE] for k in range(30)]
    sampler.close()
    assert all(len(torch.cat(seen[k : k + 3]).unique(dim=0)) == 3 * SIZE for k in range(0, 30, 3))
    # Ten draws of 72 cells out of 240 miss 3 % of them, where one pool would miss 70 %.
    assert len(torch.cat(seen).unique(dim=0)) > 0.9 * 240
    assert sampler.unused < 0.1


def test_the_growth_of_a_population_is_per_time_of_its_interval() -> None:
    """From 20 to 100 in two units of time, to 50 in three."""
    g = torch.Generator().manual_seed(0)
    cells = [torch.randn(30, 2, generator=g, dtype=torch.float64) for _ in range(3)]
    masses = [torch.full((30,), total / 30) for total in (20.0, 100.0, 50.0)]
    c = TimeCourse.from_arrays(cells, [1.0, 3.0, 6.0], masses=masses)
    sampler = PairSampler(c, Unbalanced(epsilon=0.5), Batching(8, 10, prefetch=False))
    found = sampler.batch(0).mean_growth[:, 0]
    wanted = torch.tensor([np.log(5.0) / 2] * 8 + [np.log(0.5) / 3] * 8)
    assert_close(found, wanted.to(found))
