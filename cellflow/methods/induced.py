"""Pairs of cells that learned dynamics induce: a cell, and where they take it.

**Law.** A *pool* holds pairs of every interval. Carried forward, cells are drawn from the source
in proportion to mass and simulated to the target's time; carried backward, they are drawn from
the target and simulated back, by the reverse-time equation where there is noise. A pool serves
``reuse`` epochs, reshuffled each time and met with fresh times and noise, as those of
:mod:`cellflow.batches` do; then the next one is simulated.

Batch ``k`` is a pure function of dynamics, seed and ``k``: resuming needs no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.batches import Batching
from cellflow.dynamics import Dynamics
from cellflow.paths import Pairs
from cellflow.simulate import simulate
from cellflow.timecourse import Snapshot, TimeCourse

#: Steps of the solver in each interval. On bridges whose dynamics are known exactly, the moments
#: of SRA1's ends are within the statistical error of 10,000 cells already at this number.
STEPS_PER_INTERVAL = 8


@dataclass(eq=False)
class InducedPairs:
    """Training batches of the pairs that dynamics induce.

    Parameters
    ----------
    dynamics
        Where cells go. They must not change while pairs are drawn.
    course
        Cells to carry, in the coordinates of `dynamics`.
    batching
        Sizes and reuse; nothing is coupled in blocks.
    seed
        Decides every batch.
    backward
        Whether targets are carried back to sources, rather than sources forward to targets.
    """

    dynamics: Dynamics
    course: TimeCourse
    batching: Batching
    seed: int = 0
    backward: bool = False

    def __post_init__(self) -> None:
        size = self.batching.batch_size
        longest = max(max(len(a), len(b)) for a, b in self.course.steps)
        self.steps_per_epoch = max(1, math.ceil(longest / size))
        x = self.course.snapshots[0].x
        pairs = [(a.time, b.time) for a, b in self.course.steps]
        times = torch.tensor(pairs, dtype=torch.float64).repeat_interleave(size, 0)
        self._times = times.to(device=x.device, dtype=_checks.time_dtype(x.device))
        self._pool: tuple[int, Tensor] | None = None
        self._order: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Pairs:
        """Return batch number `step`: ``batch_size`` pairs of every interval, in turn."""
        epoch, part = divmod(step, self.steps_per_epoch)
        k = epoch // self.batching.reuse
        if self._pool is None or self._pool[0] != k:
            self._pool = (k, self._simulate(k))
        pool = self._pool[1]
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, epoch, 1))
            order = torch.randperm(pool.shape[2], generator=generator)
            self._order = (epoch, order.to(pool.device))
        size = self.batching.batch_size
        rows = self._order[1][part * size : (part + 1) * size]
        x0, x1 = pool[:, :, rows].flatten(1, 2)
        return Pairs(x0, x1, self._times[:, :1], self._times[:, 1:])

    def _simulate(self, k: int) -> Tensor:
        """Pool number `k`: both ends of the pairs, shape ``(2, intervals, pairs, d)``."""
        total = self.steps_per_epoch * self.batching.batch_size
        noisy = self.dynamics.score is not None and self.dynamics.sigma > 0
        ends = []
        for j, (source, target) in enumerate(self.course.steps):
            here, there = (target, source) if self.backward else (source, target)
            seed = stream_seed(self.seed, k, 2 * j + 40)
            x = here.x[_draw(here, total, seed)]
            carried = simulate(
                self.dynamics,
                x,
                [here.time, there.time],
                solver="sra1" if noisy else "rk4",
                max_step=(target.time - source.time) / STEPS_PER_INTERVAL,
                generator=stream_seed(self.seed, k, 2 * j + 41),
            ).final
            ends.append(torch.stack([carried, x] if self.backward else [x, carried]))
        return torch.stack(ends, 1)


def _draw(snapshot: Snapshot, size: int, seed: int) -> Tensor:
    """Draw `size` cells so that each comes floor or ceil of its share, in random order."""
    generator = torch.Generator().manual_seed(seed)
    n = len(snapshot)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    ticks = (torch.arange(size) + start) / size
    # Cells in random order: with fewer draws than cells it shall not be every other one.
    order = torch.randperm(n, generator=generator)
    edges = snapshot.weights.cpu()[order].cumsum(0)
    index = order[torch.searchsorted(edges, ticks).clamp_(max=n - 1)]
    return index[torch.randperm(size, generator=generator)].to(snapshot.x.device)
