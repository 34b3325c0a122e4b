"""The noise of stochastic solvers: a pure function of the seed, the step and the cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch

from cellflow._random import stream_seed
from cellflow._typing import Tensor

#: Cells that share a stream of random numbers. It is drawn whole, so that a cell's noise depends
#: neither on its chunk nor on the number of cells. A launch costs an accelerator thousands of them.
BLOCK, DEVICE_BLOCK = 256, 2**16
_STEPS, _BRIDGES, _MEANS = 30, 31, 32


def block_size(device: torch.device) -> int:
    """Return how many cells share a stream on `device`."""
    return BLOCK if device.type == "cpu" else DEVICE_BLOCK


@dataclass(frozen=True, eq=False)
class Increments:
    r"""Brownian motion of one step of length h, times the diffusion; each ``(n, d)``.

    `total` is :math:`\sigma (W_{t+h} - W_t)` and `mean` :math:`\sigma I_{(1,0)} / h`, with
    :math:`I_{(1,0)} = \int_t^{t+h} (W_s - W_t)\,ds`: its mean over the step, None for a solver that
    does not ask for it.
    """

    total: Tensor
    mean: Tensor | None


#: Increments of a step, None where there is no noise.
Drawn: TypeAlias = Increments | None


class Noise:
    """Brownian increments for consecutive cells, drawn on their device and in their dtype.

    Each block of cells has its own generators, which follow from `seed`: streams of the CPU and of
    CUDA differ, as do those of different dtypes. Totals, means and bridges have separate streams:
    the motion is the same for every solver, and does not depend on where bridges are asked for.
    `first` is the number of the first cell among all cells, `like` a state ``(n, d)`` or, with log
    mass in the last column, ``(n, d + 1)``, and `dim` the noisy columns, d; others receive zero.
    """

    def __init__(self, seed: int, first: int, like: Tensor, *, dim: int) -> None:
        self.like, self.dim, self.seed = like, dim, seed
        self.size = block_size(like.device)
        self.offset = first % self.size
        self.blocks = range(first // self.size, (first + len(like) - 1) // self.size + 1)
        self._streams: dict[int, list[torch.Generator]] = {}

    def increments(self, scale: float, *, mean: bool = True) -> Increments:
        """Return the increments of the next step, whose total has standard deviation `scale`.

        Their `mean` costs as much again; all steps are asked for it, or none.
        """
        total = self._normals(_STEPS).mul_(scale)
        if not mean:
            return Increments(total, None)
        # I_(1,0) / h: half of the total, and h / 12 of variance beside it.
        beside = self._normals(_MEANS).mul_(scale / math.sqrt(12))
        return Increments(total, beside.add_(total, alpha=0.5))

    def bridge(self, theta: Tensor, scale: float) -> Tensor:
        """Return a Brownian bridge over a step at `theta` ``(m,)``, increasing in (0, 1).

        It is zero at both ends, and of shape ``(m, n, d)`` or, with log mass, ``(m, n, d + 1)``;
        `scale` is the standard deviation of the motion's increment over the step.
        """
        out = self.like.new_empty(len(theta), *self.like.shape)
        before, state = 0.0, torch.zeros_like(self.like)
        for row, here in zip(out, theta.tolist(), strict=True):
            left = max(1 - before, 1e-300)
            rest = max(1 - here, 0.0) / left
            drawn = self._normals(_BRIDGES).mul_(scale * math.sqrt((here - before) * rest))
            state = torch.add(drawn, state, alpha=rest, out=row)
            before = here
        return out

    def _normals(self, stream: int) -> Tensor:
        """Draw the stream's next numbers, ``(n, d)`` or ``(n, d + 1)`` with a column of zeros."""
        if stream not in self._streams:
            self._streams[stream] = [
                torch.Generator(self.like.device).manual_seed(stream_seed(self.seed, block, stream))
                for block in self.blocks
            ]
        drawn = self.like.new_empty(len(self.blocks), self.size, self.dim)
        for block, generator in zip(drawn, self._streams[stream], strict=True):
            block.normal_(generator=generator)
        n, width = self.like.shape
        cells = drawn.view(-1, self.dim)[self.offset : self.offset + n]
        return cells if width == self.dim else torch.nn.functional.pad(cells, (0, width - self.dim))
