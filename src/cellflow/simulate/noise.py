"""The noise of stochastic solvers: a pure function of the seed, the step and the cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cellflow._random import stream_seed
from cellflow._typing import Tensor

#: Cells that share a stream of random numbers. It is drawn whole, so that a cell's noise depends
#: neither on the chunk it is simulated in nor on the number of cells.
BLOCK = 256
_STEPS, _BRIDGES = 30, 31


@dataclass(frozen=True, eq=False)
class Increments:
    r"""The Brownian motion of one step of length h, times the diffusion; each ``(n, d)``.

    Parameters
    ----------
    total
        :math:`\sigma (W_{t+h} - W_t)`.
    mean
        :math:`\sigma I_{(1,0)} / h`, with :math:`I_{(1,0)} = \int_t^{t+h} (W_s - W_t)\,ds`: its
        mean over the step.
    """

    total: Tensor
    mean: Tensor


class Noise:
    """Brownian increments for consecutive cells, drawn on their device and in their dtype.

    Each block of cells has its own generators, on the device: streams of the CPU and of CUDA
    differ, as do those of different dtypes.

    Parameters
    ----------
    seed
        Seed of everything drawn.
    first
        Number of the first cell among all cells.
    like
        State ``(n, d)`` or, with log mass in the last column, ``(n, d + 1)``.
    dim
        Columns that are noisy, d; others receive zero.
    """

    def __init__(self, seed: int, first: int, like: Tensor, *, dim: int) -> None:
        self.like, self.dim = like, dim
        self.offset = first % BLOCK
        blocks = range(first // BLOCK, (first + len(like) - 1) // BLOCK + 1)
        self._streams = {
            stream: [
                torch.Generator(like.device).manual_seed(stream_seed(seed, block, stream))
                for block in blocks
            ]
            for stream in (_STEPS, _BRIDGES)
        }

    def increments(self, scale: float) -> Increments:
        """Return the increments of the next step, whose total has standard deviation `scale`."""
        one, other = scale * self._normals(_STEPS, 2)
        # I_(1,0) / h: half of the total, and h / 12 of variance beside it.
        return Increments(one, one / 2 + other / math.sqrt(12))

    def bridge(self, theta: Tensor, scale: float) -> Tensor:
        """Return a Brownian bridge over a step at `theta` ``(m,)``, increasing in (0, 1).

        It is zero at both ends; `scale` is the standard deviation of the motion's increment over
        the step. Steps and bridges have separate streams, so that the steps do not depend on
        where bridges are asked for.

        Returns
        -------
        Tensor of shape ``(m, n, d)``, or ``(m, n, d + 1)`` with log mass.
        """
        out = self._normals(_BRIDGES, len(theta)) * scale
        before, state = 0.0, torch.zeros_like(out[0])
        for row, here in zip(out, theta.tolist(), strict=True):
            left = max(1 - before, 1e-300)
            rest = max(1 - here, 0.0) / left
            state = rest * state + math.sqrt((here - before) * rest) * row
            row.copy_(state)
            before = here
        return out

    def _normals(self, stream: int, count: int) -> Tensor:
        drawn = [
            torch.randn(
                (count, BLOCK, self.dim),
                generator=g,
                dtype=self.like.dtype,
                device=self.like.device,
            )
            for g in self._streams[stream]
        ]
        n, width = self.like.shape
        cells = torch.cat(drawn, dim=1)[:, self.offset : self.offset + n]
        return torch.nn.functional.pad(cells, (0, width - self.dim))
