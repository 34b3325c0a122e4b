"""The diffusion transformer: its tokens are blocks of a cell's components."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.layers import Patches, Stream, check_heads, joint
from cellflow.networks.modulated import Modulated
from cellflow.networks.network import NETWORKS, NetworkConfig, Units


@NETWORKS.register("dit")
@dataclass(frozen=True)
class DiTConfig(NetworkConfig):
    """Diffusion transformer, DiT (:cite:`peebles2023`), over blocks of components of a cell.

    A token is a block of neighbouring components, such as gene programs in order, with a learned
    position. Time and condition modulate each block of layers, whose gates are shut at the start:
    an untrained network is linear in the state. Queries and keys have unit mean square.

    Parameters
    ----------
    width
        Features of a token, and of what is told of a cell.
    depth
        Number of blocks of layers.
    heads
        Heads of attention, a divisor of `width`.
    tokens
        Blocks that components are cut into, at most; with as many as dimensions, each is one.
    ratio
        Hidden units behind or beside the attention, in multiples of `width`.
    """

    width: int = 32
    depth: int = 2
    heads: int = 2
    tokens: int = 8
    ratio: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "tokens", "ratio"):
            _checks.count(getattr(self, name), name)
        check_heads(self.width, self.heads)

    def build(self, units: Units, *, answer: str = "velocity", generator: Rng = 0) -> Modulated:
        trunk, width = partial(DiTTrunk, self), self.width
        return Modulated(units, self, trunk, width=width, answer=answer, generator=generator)


class DiTTrunk(nn.Module):
    """Blocks of the shape `config` for cells in `units`; `out` numbers answer, `rng` draws."""

    def __init__(self, config: DiTConfig, units: Units, *, out: int, rng: torch.Generator) -> None:
        super().__init__()
        width, dim = config.width, len(units.centre)
        self.patches = Patches(dim, out, most=config.tokens, width=width, rng=rng)
        self.places = nn.Parameter(torch.randn(self.patches.tokens, width, generator=rng))
        self.blocks = nn.ModuleList(
            Stream(width, config.heads, config.ratio, rng=rng) for _ in range(config.depth)
        )

    def forward(self, x: Tensor, told: Tensor, context: Context | None) -> Tensor:
        """Answer for cells `x`, ``(n, d)``; the `context` is known from what is `told` alone."""
        h = self.patches.cut(x) + self.places
        for block in cast(list[Stream], self.blocks):
            (h,) = joint([block], [h], told[:, None])
        return self.patches.answer(h, x.shape[1])
