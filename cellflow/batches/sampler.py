"""Pairs of cells for training: coupled in blocks, ahead of time, decided by a seed alone.

**Law.** A *pool* partitions each snapshot at random into blocks of ``block_size`` cells (drawn in
proportion to mass where masses differ), couples block with block, and takes as many pairs as the
block has cells. Every pair is therefore a draw from the minibatch coupling of that size. A pool
serves ``reuse`` epochs, reshuffled each time and met with fresh times and noise; then the next
pool, made meanwhile in the background, takes over. ``reuse=1`` couples afresh for every pass. Of
snapshots that take more than 2,048 steps to pass, a pool holds the cells of as many, drawn at
random, and serves once: training begins soon, and sees as many cells as its steps allow. What
``refresh="every_step"`` changes says :class:`Batching`.

Batch ``k`` is a pure function of the seed and ``k``: resuming needs no state.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._random import shuffle, stream_rng
from cellflow._typing import Tensor
from cellflow.batches.pools import AHEAD, Batching, PendingPool, Pool, PoolMaker
from cellflow.batches.reference import Reference
from cellflow.batches.statistics import CouplingHealth
from cellflow.couplings.coupling import Coupling, CouplingLike, as_coupling
from cellflow.paths import Pairs
from cellflow.plans import Plan
from cellflow.strata import Link, links
from cellflow.timecourse import TimeCourse

#: Steps of one pass through a pool: of more cells than that takes, each pool has others.
MOST_STEPS = 2048


@dataclass(eq=False)
class PairSampler:
    """Training batches of paired cells.

    The cells of a `course` are paired by a `coupling`, a :class:`~cellflow.couplings.Coupling` or a
    function from two snapshots to a plan, which one thread calls at a time. Sizes and reuse are
    those of `batching`, and `seed` decides every batch. Plans are counted in `health`, which
    samplers of one fit share. Paths that bend have `rates`, a velocity of each cell of
    ``course.x``, shape ``(sum n_k, d)``; paths relative to a drift a `reference`, and cells are
    coupled from where that carries them. So many `workers`, background threads or 0, couple; the
    result is the same for any number. The processes of `ranks` draw the same batches: each couples
    its part of the blocks, since that is what takes time, and sends its pairs to the others, 16
    bytes each.
    """

    course: TimeCourse
    coupling: CouplingLike
    batching: Batching = field(default_factory=Batching)
    seed: int = 0
    health: CouplingHealth = field(default_factory=CouplingHealth)
    rates: Tensor | None = None
    reference: Reference | None = None
    workers: int = 1
    ranks: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        coupling = as_coupling(self.coupling)
        # Plans are solved in float64, which mps lacks; the exact ones, on the CPU anyway.
        away = self.course.x.device.type == "mps" or coupling.on_cpu
        coupled = self.course.to("cpu") if away else self.course
        between = links(coupled)
        if not between:
            expected = "a stratum of cells at two time points or more"
            raise ValueError(_checks.message("conditions", "none", expected, "Name a control."))
        strata = len({link.stratum for link in between})
        if strata > 1 and coupling.knows_rows:
            got, expected = f"a plan of whole snapshots for {strata} strata", "another coupling"
            remedy = "Fit course.under(condition), or name covariates to pair `across`."
            raise ValueError(_checks.message("coupling", got, expected, remedy))
        self._ways: Tensor | None = None
        if self.reference is not None:
            if coupled.conditions is not None:
                remedy = "Fit course.under(condition)."
                raise ValueError(_checks.message("reference", "conditions", "none yet", remedy))
            carried, ways = self.reference.carry(coupled)
            self._ways = ways.to(self.course.x)
            steps = zip(between, carried, strict=True)
            between = [link._replace(source=source) for link, (source, _) in steps]
        b = replace(self.batching, batch_size=math.ceil(self.batching.batch_size / strata))
        self._size = b.batch_size
        whole = b.block_size is None and b.refresh == "pool"
        plans = None
        if whole or coupling.needs_whole:
            plans = self._couple_whole(between, coupling)
        longest = max(max(len(link.source), len(link.target)) for link in between)
        fresh = b.refresh == "every_step" and plans is None
        needed = AHEAD if fresh else max(1, math.ceil(longest / b.batch_size))
        self.steps_per_epoch = needed if plans is not None else min(needed, MOST_STEPS)
        # A pool that holds only some of the cells gives way to others after one pass.
        self._reuse = 1 if fresh or needed > self.steps_per_epoch else b.reuse
        self._shuffles = not fresh
        numbers = self.seed, self.steps_per_epoch
        self._maker = PoolMaker(between, coupling, b, *numbers, plans, self.ranks)
        x = self.course.snapshots[0].x
        pairs = [(link.source.time, link.target.time) for link in between]
        times = torch.tensor(pairs, dtype=torch.float64).repeat_interleave(self._size, 0)
        self._times = times.to(device=x.device, dtype=_checks.time_dtype(x.device))
        sizes = [(math.log(s.total_mass), math.log(t.total_mass)) for s, t, *_ in between]
        grown = [(b - a) / (t - s) for (a, b), (s, t) in zip(sizes, pairs, strict=True)]
        self._mean_growth = torch.tensor(grown, dtype=torch.float64).to(x)
        self._x = self.course.x
        self._used = torch.zeros(len(self._x), dtype=torch.bool)
        self._first: int | None = None
        self._now: tuple[int, Pool] | None = None
        self._next: tuple[int, PendingPool] | None = None
        self._order: tuple[int, Pool] | None = None
        self._executor: ThreadPoolExecutor | None = None

    def batch(self, step: int) -> Pairs:
        """Return batch number `step`: ``batch_size`` pairs of every interval, in turn.

        With conditions, each stratum has an equal part of them, of its own intervals.
        """
        self._first = step if self._first is None else self._first
        epoch, part = divmod(step, self.steps_per_epoch)
        pool = self._epoch(epoch)
        size = self._size
        now = slice(part * size, (part + 1) * size)
        rows = pool.rows[:, :, now].reshape(2, -1)
        growth = None if pool.growth is None else pool.growth[:, now].reshape(-1, 1)
        x0, x1 = (self._x.index_select(0, row) for row in rows)
        rate0, rate1 = (None if self.rates is None else self.rates[row] for row in rows)
        mean = None
        if pool.growth is not None:  # none in an interval whose plans say nothing of growth
            mean = self._mean_growth * (pool.growth != 0).any(1)
            mean = mean.repeat_interleave(size)[:, None]
        t0, t1 = self._times[:, :1], self._times[:, 1:]
        codes = None if pool.codes is None else pool.codes[:, now].reshape(-1, 1)
        way = None if self._ways is None else self._ways[rows[0]]
        return Pairs(x0, x1, t0, t1, growth, rate0, rate1, mean, codes, way)

    @property
    def unused(self) -> float:
        """Share of the cells that were never paired so far; 0 where a run was resumed."""
        if self._first != 0:  # who was paired before is not known
            return 0.0
        return 1.0 - float(self._used.double().mean())

    def close(self) -> None:
        """Stop the background threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = self._next = None

    def _epoch(self, epoch: int) -> Pool:
        """Pairs in the order of this epoch."""
        if self._order is None or self._order[0] != epoch:
            pool = self._pool(epoch // self._reuse)
            if self._shuffles:
                order = shuffle(pool.rows.shape[2], stream_rng(self.seed, epoch, 1))
                order = order.to(pool.rows.device)
                pool = pool.map(lambda value: value[..., order])
            self._order = (epoch, pool)
        return self._order[1]

    def _pool(self, k: int) -> Pool:
        if self._now is not None and self._now[0] == k:
            return self._now[1]
        start = time.perf_counter()
        pending = None if self._next is None or self._next[0] != k else self._next[1]
        pending = pending or self._maker.begin(k, None)
        chunks = self.ranks.interleave(pending.chunks(), self._maker.links[0].rows.device)
        for chunk in chunks:
            self.health.merge(chunk.health)
        pool = self._maker.finish(k, chunks)
        self._used[pool.rows.reshape(-1).cpu()] = True
        pool = pool.map(lambda value: value.to(self._x.device))
        growth = None if pool.growth is None else pool.growth.to(self._x)
        self._now = (k, pool._replace(growth=growth))
        if self.batching.prefetch and self.workers:
            if self._executor is None:
                names = "cellflow-coupling"
                self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix=names)
            self._next = (k + 1, self._maker.begin(k + 1, self._executor))
        self.health.waited += time.perf_counter() - start
        return self._now[1]

    def _couple_whole(self, between: list[Link], coupling: Coupling) -> list[Plan]:
        start = time.perf_counter()
        own = [coupling(source, target) for source, target, *_ in self.ranks.share(between)]
        plans = self.ranks.interleave(own, between[0].rows.device)
        for plan in plans:
            self.health.add(plan)
        self.health.announce()
        self.health.seconds += time.perf_counter() - start
        self.health.waited += time.perf_counter() - start
        return plans
