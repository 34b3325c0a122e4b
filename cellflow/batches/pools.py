"""Pools of pairs: cells are drawn into blocks, and blocks are coupled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cellflow._process_group import ProcessGroup
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.batches.settings import Batching
from cellflow.batches.statistics import CouplingHealth
from cellflow.couplings import Coupling
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot, TimeCourse

#: Blocks coupled in one go.
CHUNK = 8
#: Steps that a pool serves where every step is coupled anew.
AHEAD = 8


@dataclass(frozen=True, eq=False)
class Pool:
    """Pairs of every interval: rows of ``course.x``, shape ``(2, intervals, pairs)``.

    `growth` is the rate of their log mass ``(intervals, pairs)``; None where mass stays.
    """

    rows: Tensor
    growth: Tensor | None

    def shuffled(self, order: Tensor) -> Pool:
        """Return the pairs of each interval in this `order`."""
        growth = None if self.growth is None else self.growth[:, order]
        return Pool(self.rows[:, :, order], growth)


class Chunk(NamedTuple):
    """Pairs of some consecutive blocks of one interval, with the change of their log mass."""

    rows: Tensor
    cols: Tensor
    growth: Tensor | None
    health: CouplingHealth


class PendingPool:
    """A pool whose chunks are still to be coupled.

    The threads of `executor`, if any, do the `tasks` from the first on; the thread that waits does
    them from the last on. The result is the same whichever thread does a task.
    """

    def __init__(self, tasks: Sequence[Callable[[], Chunk]], executor: Executor | None) -> None:
        self.tasks = tasks
        self.futures: list[Future] = [executor.submit(task) for task in tasks] if executor else []

    def chunks(self) -> list[Chunk]:
        """Wait for all chunks, and do the tasks that no thread has begun."""
        if not self.futures:
            return [task() for task in self.tasks]
        own = {}
        for k in reversed(range(len(self.tasks))):
            if self.futures[k].cancel():
                own[k] = self.tasks[k]()
        return [own[k] if k in own else f.result() for k, f in enumerate(self.futures)]


@dataclass(frozen=True, eq=False)
class PoolMaker:
    """Maker of pools, each of which is a pure function of the seed and its number.

    One pass through a pool serves `steps` training steps. `plans` are those of whole snapshots;
    None where blocks are coupled. The processes of `ranks` couple a part of the blocks each.
    """

    course: TimeCourse
    coupling: Coupling
    batching: Batching
    seed: int
    steps: int
    plans: Sequence[Plan] | None
    ranks: ProcessGroup = field(default_factory=ProcessGroup)

    @property
    def pairs(self) -> int:
        """Pairs of an interval in a pool."""
        return self.steps * self.batching.batch_size

    def begin(self, k: int, executor: Executor | None) -> PendingPool:
        """Draw the cells of pool `k`, and have its blocks coupled."""
        # Two streams, so that the cells drawn do not depend on the coupling.
        cells = torch.Generator().manual_seed(stream_seed(self.seed, k, 0))
        tasks: list[Callable[[], Chunk]] = []
        for j, (source, target) in enumerate(self.course.steps):
            seed = stream_seed(stream_seed(self.seed, k, 2), j, 2)
            if self.plans is not None:
                tasks.append(_whole_task(self.plans[j], self.pairs, seed))
                continue
            size, number = self._blocks(source, target)
            left, right = (
                _draw(s, number * size, size, cells).view(number, size) for s in (source, target)
            )
            step = CHUNK if self.coupling.thread_safe else -(-number // self.ranks.world)
            for low in range(0, number, step):
                part = slice(low, low + step)
                tasks.append(self._block_task(j, left[part], right[part], first=low, seed=seed))
        return PendingPool(self.ranks.share(tasks), executor)

    def finish(self, k: int, chunks: Sequence[Chunk]) -> Pool:
        """Put the pairs of pool `k` together, from the chunks of all ranks."""
        columns, rates, offset, at = [], [], 0, 0
        for j, (source, target) in enumerate(self.course.steps):
            number, each = 1, self.pairs
            if self.plans is None:
                each, number = self._blocks(source, target)
            taken, have = [], 0
            while have < number * each:
                taken.append(chunks[at])
                have, at = have + len(chunks[at].rows), at + 1
            rows, cols = (torch.cat([getattr(c, name) for c in taken]) for name in ("rows", "cols"))
            keep = self._kept(k, j, number=number, each=each).to(rows.device)
            columns.append(torch.stack([rows[keep] + offset, cols[keep] + offset + len(source)]))
            growth = [c.growth for c in taken if c.growth is not None]
            span = target.time - source.time
            rates.append(torch.cat(growth)[keep] / span if growth else None)
            offset += len(source)
        known = [rate for rate in rates if rate is not None]
        growing = None
        if known:  # an interval whose plan has none conserves mass
            still = torch.zeros_like(known[0])
            growing = torch.stack([still if r is None else r for r in rates])
        return Pool(torch.stack(columns, 1), growing)

    def _blocks(self, source: Snapshot, target: Snapshot) -> tuple[int, int]:
        """Size and number of the blocks of an interval."""
        b = self.batching
        fresh = b.refresh == "every_step"
        wanted = b.batch_size if fresh else b.block_size or self.pairs
        size = min(wanted, len(source), len(target))
        if fresh:
            return size, self.steps * math.ceil(b.batch_size / size)
        return size, math.ceil(self.pairs / size)

    def _kept(self, k: int, j: int, *, number: int, each: int) -> Tensor:
        """Which of the pairs of an interval are kept, in which order."""
        total = number * each
        if self.batching.refresh == "every_step" and self.plans is None:
            return torch.arange(total).view(self.steps, -1)[:, : self.batching.batch_size].flatten()
        if total == self.pairs:  # they are shuffled for each epoch anyway
            return torch.arange(total)
        seed = stream_seed(stream_seed(self.seed, k, 3), j, 3)
        order = torch.Generator().manual_seed(seed)
        return torch.randperm(total, generator=order)[: self.pairs]

    def _block_task(
        self, j: int, left: Tensor, right: Tensor, *, first: int, seed: int
    ) -> Callable[[], Chunk]:
        def task() -> Chunk:
            start = time.perf_counter()
            source, target = self.course.steps[j]
            sources, targets = _cut(source, left), _cut(target, right)
            plans = self.coupling.many(sources, targets)
            out, health = [], CouplingHealth()
            for b, (plan, mine, theirs) in enumerate(zip(plans, left, right, strict=True), first):
                health.add(plan)
                generator = torch.Generator().manual_seed(stream_seed(seed, b, 4))
                rows, cols = plan.sample(len(mine), generator)
                out.append((mine[rows], theirs[cols], log_growth(plan, rows, cols)))
            all_rows, all_cols, growth = zip(*out, strict=True)
            health.seconds = time.perf_counter() - start
            grown = None if growth[0] is None else torch.cat(growth)
            return Chunk(torch.cat(all_rows), torch.cat(all_cols), grown, health)

        return task


def _whole_task(plan: Plan, total: int, seed: int) -> Callable[[], Chunk]:
    def task() -> Chunk:
        start = time.perf_counter()
        rows, cols = plan.sample(total, torch.Generator().manual_seed(seed))
        health = CouplingHealth(seconds=time.perf_counter() - start)
        return Chunk(rows, cols, log_growth(plan, rows, cols), health)

    return task


def log_growth(plan: Plan, rows: Tensor, cols: Tensor) -> Tensor | None:
    """Change of each pair's log mass from source to target, shape ``(k,)``."""
    if plan.source_growth is None or plan.target_growth is None:
        return None
    return plan.source_growth[rows] + plan.target_growth[cols]


def _cut(snapshot: Snapshot, blocks: Tensor) -> list[Snapshot]:
    """Return the cells of each row of `blocks` ``(B, k)`` as a snapshot."""
    # Cells were drawn in proportion to mass, so that within a block they weigh the same; the
    # block stands for the whole, so that it has the mass of the whole.
    mass = snapshot.x.new_full((blocks.shape[1],), snapshot.total_mass / blocks.shape[1])
    growth = [None] * len(blocks) if snapshot.growth is None else snapshot.growth[blocks]
    return [
        Snapshot(x, snapshot.time, mass, growth=g)
        for x, g in zip(snapshot.x[blocks], growth, strict=True)
    ]


def _draw(snapshot: Snapshot, size: int, block: int, generator: torch.Generator) -> Tensor:
    """Draw `size` cells in random order, as evenly as masses allow, for blocks of `block`."""
    n = len(snapshot)
    if snapshot.is_uniform:
        rounds: list[Tensor] = []
        for k in range(math.ceil(size / n)):
            order = torch.randperm(n, generator=generator)
            begun = k * n % block
            if begun:  # a block that spans two rounds shall not meet a cell twice
                met = torch.zeros(n, dtype=torch.bool)
                met[rounds[-1][-begun:]] = True
                late = met[order]
                order = torch.cat([order[~late], order[late]])
            rounds.append(order)
        return torch.cat(rounds)[:size].to(snapshot.x.device)
    # Systematic sampling: each cell comes floor or ceil of its share.
    edges = snapshot.weights.cpu().cumsum(0)
    ticks = (torch.arange(size) + torch.rand((), generator=generator, dtype=torch.float64)) / size
    index = torch.searchsorted(edges, ticks).clamp_(max=n - 1)
    return index[torch.randperm(size, generator=generator)].to(snapshot.x.device)
