"""Pairs of cells for training: coupled in blocks, ahead of time, decided by a seed alone.

**Law.** A *pool* partitions each snapshot at random into blocks of ``block_size`` cells (drawn in
proportion to mass where masses differ), couples block with block, and takes as many pairs as the
block has cells. Every pair is therefore a draw from the minibatch coupling of that size. A pool
serves ``reuse`` epochs, reshuffled each time and met with fresh times and noise; then the next
pool, made meanwhile in the background, takes over. ``reuse=1`` couples afresh for every pass.

Batch ``k`` is a pure function of the seed and ``k``: resuming needs no state.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.batches.health import CouplingHealth
from cellflow.couplings import Coupling, Plan
from cellflow.paths import Pairs
from cellflow.timecourse import Snapshot, TimeCourse


@dataclass(frozen=True)
class Batching:
    """How pairs are made.

    Parameters
    ----------
    batch_size
        Pairs per interval in a training step.
    block_size
        Cells coupled together, at most those of the smaller snapshot; None couples whole
        snapshots, once.
    reuse
        Epochs that a pool of pairs serves before it is coupled anew.
    prefetch
        Whether the next pool is made by a background thread (same result either way).

    Raises
    ------
    ValueError
        If a size is not positive.
    """

    batch_size: int = 256
    block_size: int | None = 256
    reuse: int = 16
    prefetch: bool = True

    def __post_init__(self) -> None:
        _checks.count(self.batch_size, "batch_size")
        _checks.count(self.reuse, "reuse")
        if self.block_size is not None:
            _checks.count(self.block_size, "block_size", low=2)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Pairs of every interval.

    Parameters
    ----------
    rows
        Rows of ``course.x``, shape ``(2, intervals, pairs)``.
    growth
        Rate of each pair's log mass, shape ``(intervals, pairs)``; None where mass stays.
    """

    rows: Tensor
    growth: Tensor | None

    def shuffled(self, order: Tensor) -> _Pool:
        """Return the pairs of each interval in this `order`."""
        growth = None if self.growth is None else self.growth[:, order]
        return _Pool(self.rows[:, :, order], growth)


@dataclass(eq=False)
class PairSampler:
    """Training batches of paired cells.

    Parameters
    ----------
    course
        Cells to pair.
    coupling
        Any callable from two snapshots to a plan. One with ``needs_whole`` set is given whole
        snapshots, whatever the block size.
    batching
        Sizes and reuse.
    seed
        Decides every batch.
    health
        Where plans are counted; samplers of one fit share it.
    rates
        Velocity of each cell of ``course.x``, shape ``(sum n_k, d)``, for paths that bend.
    """

    course: TimeCourse
    coupling: Coupling
    batching: Batching = field(default_factory=Batching)
    seed: int = 0
    health: CouplingHealth = field(default_factory=CouplingHealth)
    rates: Tensor | None = None

    def __post_init__(self) -> None:
        if self.course.x.device.type == "mps":  # plans are solved in float64, which it lacks
            self._coupled = self.course.to("cpu")
        else:
            self._coupled = self.course
        whole = self.batching.block_size is None or getattr(self.coupling, "needs_whole", False)
        self._plans: list[Plan] | None = self._couple_whole() if whole else None
        size = self.batching.batch_size
        longest = max(max(len(a), len(b)) for a, b in self.course.steps)
        self.steps_per_epoch = max(1, math.ceil(longest / size))
        x = self.course.snapshots[0].x
        pairs = [(a.time, b.time) for a, b in self.course.steps]
        times = torch.tensor(pairs, dtype=torch.float64).repeat_interleave(size, 0)
        self._times = times.to(device=x.device, dtype=_checks.time_dtype(x.device))
        masses = [s.mass.double().sum().log() for s in self._coupled.snapshots]
        grown = [(b - a) / (t - s) for (a, b), (s, t) in zip(pairwise(masses), pairs, strict=True)]
        self._mean_growth = torch.stack(grown).to(x)
        self._x = self.course.x
        self._used = torch.zeros(len(self._x), dtype=torch.bool)
        self._first: int | None = None
        self._pools: dict[int, _Pool | Future] = {}
        self._order: tuple[int, _Pool] | None = None
        self._worker: ThreadPoolExecutor | None = None

    def batch(self, step: int) -> Pairs:
        """Return batch number `step`: ``batch_size`` pairs of every interval, in turn."""
        self._first = step if self._first is None else self._first
        epoch, part = divmod(step, self.steps_per_epoch)
        pool = self._epoch(epoch)
        size = self.batching.batch_size
        now = slice(part * size, (part + 1) * size)
        rows = pool.rows[:, :, now].reshape(2, -1)
        growth = None if pool.growth is None else pool.growth[:, now].reshape(-1, 1)
        x0, x1 = self._x[rows[0]], self._x[rows[1]]
        rate0, rate1 = (None if self.rates is None else self.rates[row] for row in rows)
        mean = None
        if pool.growth is not None:  # none in an interval whose plans say nothing of growth
            mean = self._mean_growth * (pool.growth != 0).any(1)
            mean = mean.repeat_interleave(size)[:, None]
        t0, t1 = self._times[:, :1], self._times[:, 1:]
        return Pairs(x0, x1, t0, t1, growth, rate0, rate1, mean)

    @property
    def unused(self) -> float:
        """Share of the cells that were never paired so far; 0 where a run was resumed."""
        if self._first != 0:  # who was paired before is not known
            return 0.0
        return 1.0 - float(self._used.double().mean())

    def close(self) -> None:
        """Stop the background thread."""
        if self._worker is not None:
            self._worker.shutdown(wait=True, cancel_futures=True)
            self._worker = None

    def _epoch(self, epoch: int) -> _Pool:
        """Pairs in the order of this epoch."""
        if self._order is None or self._order[0] != epoch:
            pool = self._pool(epoch // self.batching.reuse)
            self._used[pool.rows.reshape(-1).cpu()] = True
            generator = torch.Generator().manual_seed(stream_seed(self.seed, epoch, 1))
            shuffle = torch.randperm(pool.rows.shape[2], generator=generator)
            self._order = (epoch, pool.shuffled(shuffle.to(pool.rows.device)))
        return self._order[1]

    def _pool(self, k: int) -> _Pool:
        ready = self._pools.get(k)
        if isinstance(ready, Future):
            ready = ready.result()
        if ready is None:
            ready = self._make_pool(k)
        self._pools = {k: ready, **{j: p for j, p in self._pools.items() if j == k + 1}}
        if self.batching.prefetch and k + 1 not in self._pools:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="cellflow-coupling")
            self._pools[k + 1] = self._worker.submit(self._make_pool, k + 1)
        return ready

    def _make_pool(self, k: int) -> _Pool:
        start = time.perf_counter()
        total = self.steps_per_epoch * self.batching.batch_size
        # Two streams, so that the cells drawn do not depend on the coupling.
        cells = torch.Generator().manual_seed(stream_seed(self.seed, k, 0))
        pairs = torch.Generator().manual_seed(stream_seed(self.seed, k, 2))
        offset, columns, rates = 0, [], []
        for j, (source, target) in enumerate(self._coupled.steps):
            if self._plans is not None:
                plan = self._plans[j]
                rows, cols = plan.sample(total, pairs)
                growth = _log_growth(plan, rows, cols)
            else:
                rows, cols, growth = self._couple_blocks(source, target, total, (cells, pairs))
            columns.append(torch.stack([rows + offset, cols + offset + len(source)]))
            rates.append(None if growth is None else growth / (target.time - source.time))
            offset += len(source)
        self.health.seconds += time.perf_counter() - start
        known = [rate for rate in rates if rate is not None]
        growing = None
        if known:  # an interval whose plan has none conserves mass
            still = torch.zeros_like(known[0])
            growing = torch.stack([still if r is None else r for r in rates]).to(self._x)
        return _Pool(torch.stack(columns, 1).to(self._x.device), growing)

    def _couple_blocks(
        self,
        source: Snapshot,
        target: Snapshot,
        total: int,
        generators: tuple[torch.Generator, torch.Generator],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        cells, pairs = generators
        block = min(self.batching.block_size or total, len(source), len(target))
        n_blocks = math.ceil(total / block)
        left = _draw(source, n_blocks * block, block, cells).view(n_blocks, block)
        right = _draw(target, n_blocks * block, block, cells).view(n_blocks, block)
        rows, cols, growth = [], [], []
        for i, j in zip(left, right, strict=True):
            plan = self.coupling(_block(source, i), _block(target, j))
            self.health.add(plan)
            a, b = plan.sample(block, pairs)
            rows.append(i[a])
            cols.append(j[b])
            growth.append(_log_growth(plan, a, b))
        keep = torch.randperm(n_blocks * block, generator=pairs)[:total].to(left.device)
        grown = None if growth[0] is None else torch.cat(growth)[keep]
        return torch.cat(rows)[keep], torch.cat(cols)[keep], grown

    def _couple_whole(self) -> list[Plan]:
        start = time.perf_counter()
        plans = [self.coupling(source, target) for source, target in self._coupled.steps]
        for plan in plans:
            self.health.add(plan)
        self.health.seconds += time.perf_counter() - start
        return plans


def _log_growth(plan: Plan, rows: Tensor, cols: Tensor) -> Tensor | None:
    """Change of each pair's log mass from source to target, shape ``(k,)``."""
    if plan.source_growth is None or plan.target_growth is None:
        return None
    return plan.source_growth[rows] + plan.target_growth[cols]


def _block(snapshot: Snapshot, index: Tensor) -> Snapshot:
    # Cells were drawn in proportion to mass, so that within a block they weigh the same; the
    # block stands for the whole, so that it has the mass of the whole.
    each = float(snapshot.mass.double().sum()) / len(index)
    growth = None if snapshot.growth is None else snapshot.growth[index]
    x = snapshot.x[index]
    return Snapshot(x, snapshot.time, x.new_full((len(index),), each), growth=growth)


def _draw(snapshot: Snapshot, size: int, block: int, generator: torch.Generator) -> Tensor:
    """Draw `size` cells in random order, as evenly as masses allow, for blocks of `block`."""
    n = len(snapshot)
    if snapshot.is_uniform:
        rounds: list[Tensor] = []
        for k in range(math.ceil(size / n)):
            order = torch.randperm(n, generator=generator)
            begun = k * n % block
            if begun:  # a block that spans two rounds shall not meet a cell twice
                met = torch.isin(order, rounds[-1][-begun:])
                order = torch.cat([order[~met], order[met]])
            rounds.append(order)
        return torch.cat(rounds)[:size].to(snapshot.x.device)
    # Systematic sampling: each cell comes floor or ceil of its share.
    edges = snapshot.weights.cpu().cumsum(0)
    ticks = (torch.arange(size) + torch.rand((), generator=generator, dtype=torch.float64)) / size
    index = torch.searchsorted(edges, ticks).clamp_(max=n - 1)
    return index[torch.randperm(size, generator=generator)].to(snapshot.x.device)
