"""A residual perceptron, which time and condition modulate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import silu

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.layers import QUIET, Linear, modulated
from cellflow.networks.modulated import Modulated
from cellflow.networks.network import NETWORKS, SMALL, NetworkConfig, Units


@NETWORKS.register("residual")
@dataclass(frozen=True)
class ResidualConfig(NetworkConfig):
    r"""Residual blocks with layer norm, which time and condition modulate (adaLN-zero).

    Each makes, of the features `h` of a cell (:cite:`peebles2023`, section 3.2),

    .. math:: h + \gamma\, W_2\, \mathrm{silu}(W_1 ((1 + \beta)\, \mathrm{norm}(h) + \alpha)),

    where :math:`\alpha, \beta, \gamma` are linear in what is told of time and condition and zero at
    the start: an untrained network is linear in the state.

    A cell, and what is told of it, has `width` features; `depth` is the number of blocks.
    """

    width: int = 64
    depth: int = 3

    def __post_init__(self) -> None:
        _checks.count(self.width, "width")
        _checks.count(self.depth, "depth")

    @property
    def small(self) -> bool:
        return self.width <= SMALL

    def build(self, units: Units, *, answer: str = "velocity", generator: Rng = 0) -> Modulated:
        trunk, width = partial(ResidualTrunk, self), self.width
        return Modulated(units, self, trunk, width=width, answer=answer, generator=generator)


class ResidualTrunk(nn.Module):
    """Blocks of the shape `config` for cells in `units`; `out` numbers answer, `rng` draws."""

    def __init__(
        self, config: ResidualConfig, units: Units, *, out: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        width, depth = config.width, range(config.depth)
        self.first = Linear(len(units.centre), width).draw(rng)
        self.modulations = nn.ModuleList(Linear(width, 3 * width).zero() for _ in depth)
        self.inner = nn.ModuleList(Linear(width, width).draw(rng) for _ in depth)
        self.outer = nn.ModuleList(Linear(width, width).draw(rng) for _ in depth)
        self.last = Linear(width, out).draw(rng, QUIET * width)

    def forward(self, x: Tensor, told: Tensor, context: Context | None) -> Tensor:
        """Answer for cells `x`, ``(n, d)``; the `context` is known from what is `told` alone."""
        h = self.first(x)
        for modulation, inner, outer in zip(self.modulations, self.inner, self.outer, strict=True):
            shift, scale, gate = modulation(told).chunk(3, -1)
            h = h + gate * outer(silu(inner(modulated(h, shift, scale))))
        return self.last(h)
