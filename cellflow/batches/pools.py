"""Pools of pairs: cells are drawn into blocks, and blocks are coupled; the settings of both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._random import shuffle, stream_rng, stream_seed, systematic
from cellflow._typing import Tensor
from cellflow.batches.statistics import CouplingHealth
from cellflow.couplings import Coupling
from cellflow.plans import Plan
from cellflow.strata import Link
from cellflow.timecourse import Snapshot

#: Blocks coupled in one go.
CHUNK = 8
#: Steps that a pool serves where every step is coupled anew.
AHEAD = 8
REFRESH = ("pool", "every_step")


@dataclass(frozen=True)
class Batching:
    """How pairs are made.

    Parameters
    ----------
    batch_size
        Pairs per interval in a training step; strata share them alike, rounded up.
    block_size
        Cells coupled together, at most those of the smaller snapshot; None couples whole
        snapshots, once.
    reuse
        Epochs that a pool of pairs serves before it is coupled anew.
    prefetch
        Whether the next pool is made by background threads (same result either way).
    refresh
        ``"pool"`` takes the pairs of a step from all blocks of a pool, each used `reuse` times.
        ``"every_step"`` couples anew for every step, as minibatch couplings were published:
        ``batch_size`` fresh cells of either snapshot, whatever `block_size` and `reuse`. Each
        pair follows the law of the minibatch coupling either way; only under the second do the
        pairs of a step come from one plan, so that they are as dependent as they are in it.
    """

    batch_size: int = 256
    block_size: int | None = 256
    reuse: int = 32
    prefetch: bool = True
    refresh: str = "pool"

    def __post_init__(self) -> None:
        _checks.count(self.batch_size, "batch_size")
        _checks.count(self.reuse, "reuse")
        _checks.choice(self.refresh, REFRESH, "refresh")
        if self.block_size is not None:
            _checks.count(self.block_size, "block_size", low=2)


class Pool(NamedTuple):
    """Pairs of every link: rows of ``course.x``, shape ``(2, links, pairs)``.

    `growth` is the rate of their log mass ``(links, pairs)``, None where mass stays; `codes` are
    those of their conditions ``(links, pairs)``, if there are any.
    """

    rows: Tensor
    growth: Tensor | None
    codes: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Pool:
        """Return the pool with each of its tensors changed."""
        return Pool(*(None if value is None else change(value) for value in self))  # type: ignore[arg-type] # there are rows


class Chunk(NamedTuple):
    """Pairs of some consecutive blocks of one link, with the change of their log mass."""

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

    One pass through a pool serves `steps` training steps. Of each of the `intervals`, `plans` are
    those of whole snapshots; None where blocks are coupled. The processes of `ranks` couple a part
    of the blocks each.
    """

    links: Sequence[Link]
    coupling: Coupling
    batching: Batching
    seed: int
    steps: int
    plans: Sequence[Plan] | None
    ranks: ProcessGroup

    @property
    def pairs(self) -> int:
        """Pairs of a link in a pool."""
        return self.steps * self.batching.batch_size

    def begin(self, k: int, executor: Executor | None) -> PendingPool:
        """Draw the cells of pool `k`, and have its blocks coupled."""
        # Two streams, so that the cells drawn do not depend on the coupling.
        cells = stream_rng(self.seed, k, 0)
        tasks: list[partial[Chunk]] = []
        for j, (source, target, *_) in enumerate(self.links):
            seed = stream_seed(stream_seed(self.seed, k, 2), j, 2)
            if self.plans is not None:
                tasks.append(partial(_draw_pairs, self.plans[j], self.pairs, seed))
                continue
            size, number = self._blocks(source, target)
            drawn = [_draw(s, number * size, size, cells) for s in (source, target)]
            left, right = (rows.view(number, size) for rows in drawn)
            step = CHUNK if self.coupling.thread_safe else -(-number // self.ranks.world)
            for low in range(0, number, step):
                part = slice(low, low + step)
                blocks = left[part], right[part]
                tasks.append(partial(self._couple, j, *blocks, first=low, seed=seed))
        return PendingPool(self.ranks.share(tasks), executor)

    def finish(self, k: int, chunks: Sequence[Chunk]) -> Pool:
        """Put the pairs of pool `k` together, from the chunks of all ranks."""
        columns, rates, codes, at = [], [], [], 0
        for j, link in enumerate(self.links):
            number, each = 1, self.pairs
            if self.plans is None:
                each, number = self._blocks(link.source, link.target)
            taken, have = [], 0
            while have < number * each:
                taken.append(chunks[at])
                have, at = have + len(chunks[at].rows), at + 1
            rows, cols = torch.cat([c.rows for c in taken]), torch.cat([c.cols for c in taken])
            keep = self._kept(k, j, number=number, each=each).to(rows.device)
            rows, cols = rows[keep], cols[keep]
            columns.append(torch.stack([link.rows[rows], link.cols[cols]]))
            if link.codes is not None:
                codes.append(link.codes[cols])
            growth = [c.growth for c in taken if c.growth is not None]
            span = link.target.time - link.source.time
            rates.append(torch.cat(growth)[keep] / span if growth else None)
        known = [rate for rate in rates if rate is not None]
        growing = None
        if known:  # an interval whose plan has none conserves mass
            still = torch.zeros_like(known[0])
            growing = torch.stack([still if r is None else r for r in rates])
        return Pool(torch.stack(columns, 1), growing, torch.stack(codes) if codes else None)

    def _blocks(self, source: Snapshot, target: Snapshot) -> tuple[int, int]:
        """Size and number of the blocks of a link."""
        b = self.batching
        fresh = b.refresh == "every_step"
        wanted = b.batch_size if fresh else b.block_size or self.pairs
        size = min(wanted, len(source), len(target))
        if fresh:
            return size, self.steps * math.ceil(b.batch_size / size)
        return size, math.ceil(self.pairs / size)

    def _kept(self, k: int, j: int, *, number: int, each: int) -> Tensor:
        """Which of the pairs of a link are kept, in which order."""
        total = number * each
        if self.batching.refresh == "every_step" and self.plans is None:
            return torch.arange(total).view(self.steps, -1)[:, : self.batching.batch_size].flatten()
        if total == self.pairs:  # they are shuffled for each epoch anyway
            return torch.arange(total)
        return shuffle(total, stream_rng(stream_seed(self.seed, k, 3), j, 3))[: self.pairs]

    def _couple(self, j: int, left: Tensor, right: Tensor, *, first: int, seed: int) -> Chunk:
        """Couple the blocks `left` with `right` ``(B, k)`` of link `j`, from number `first`."""
        start = time.perf_counter()
        source, target, *_ = self.links[j]
        plans = self.coupling.many(_cut(source, left), _cut(target, right))
        out, health = [], CouplingHealth()
        for b, (plan, mine, theirs) in enumerate(zip(plans, left, right, strict=True), first):
            health.add(plan)
            rows, cols = plan.sample(len(mine), stream_seed(seed, b, 4))
            out.append((mine[rows], theirs[cols], _log_growth(plan, rows, cols)))
        all_rows, all_cols, growth = zip(*out, strict=True)
        health.seconds = time.perf_counter() - start
        grown = None if growth[0] is None else torch.cat(growth)
        return Chunk(torch.cat(all_rows), torch.cat(all_cols), grown, health)


def _draw_pairs(plan: Plan, total: int, seed: int) -> Chunk:
    start = time.perf_counter()
    rows, cols = plan.sample(total, seed)
    health = CouplingHealth(seconds=time.perf_counter() - start)
    return Chunk(rows, cols, _log_growth(plan, rows, cols), health)


def _log_growth(plan: Plan, rows: Tensor, cols: Tensor) -> Tensor | None:
    """Change of each pair's log mass from source to target, shape ``(k,)``."""
    if plan.source_growth is None or plan.target_growth is None:
        return None
    return plan.source_growth[rows] + plan.target_growth[cols]


def _cut(snapshot: Snapshot, blocks: Tensor) -> list[Snapshot]:
    """Return the cells of each row of `blocks` ``(B, k)`` as a snapshot."""
    # Cells were drawn in proportion to mass, so that within a block they weigh the same; the
    # block stands for the whole, so that it has the mass of the whole.
    mass = snapshot.x.new_full((blocks.shape[1],), snapshot.total_mass / blocks.shape[1])
    nothing, known = [None] * len(blocks), snapshot.labels
    growth = nothing if snapshot.growth is None else snapshot.growth[blocks]
    labels = nothing if known is None else [[known[i] for i in row] for row in blocks.tolist()]
    return [
        Snapshot(x, snapshot.time, mass, label, g)
        for x, label, g in zip(snapshot.x[blocks], labels, growth, strict=True)
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
    return systematic(snapshot.weights, size, generator).to(snapshot.x.device)
