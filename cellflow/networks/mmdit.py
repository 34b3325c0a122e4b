"""The multimodal transformer: tokens of a cell beside those of its condition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.layers import (
    Heads,
    Linear,
    Patches,
    Stream,
    attention,
    check_heads,
    joint,
    modulated,
)
from cellflow.networks.modulated import Modulated
from cellflow.networks.network import NETWORKS, NetworkConfig, Units

#: Where tokens of a cell stand is learned, or turns queries and keys.
POSITIONS = ("learned", "rotary")
#: Longest wave of rotary positions, in tokens over a full turn.
_LONGEST = 100.0


@NETWORKS.register("mmdit")
@dataclass(frozen=True)
class MMDiTConfig(NetworkConfig):
    """Multimodal transformer, MM-DiT, over tokens of the cell and of its condition.

    Tokens of both have weights of their own in the first blocks and attend to each other, as in
    SD3 (:cite:`esser2024`, section 4); in the last ones they share weights, and attention stands
    beside the hidden layer, as in FLUX (:cite:`dehghani2023`, section 2, has that block). Tokens of
    a condition have no order; one more, learned, is that of every cell. Queries and keys have unit
    mean square. Gates are shut at the start: an untrained network is linear in the state.

    Parameters
    ----------
    double, single
        Numbers of blocks with weights for each kind of tokens, and of those that share them.
    positions
        Of the cell's tokens: ``"learned"``, or ``"rotary"``, by turns of queries and keys, of which
        distances alone count (:cite:`su2024`); heads then divide half the width.
    width, heads, tokens, ratio
        As in :class:`DiTConfig`.
    """

    width: int = 32
    double: int = 1
    single: int = 1
    heads: int = 2
    tokens: int = 8
    positions: str = "learned"
    ratio: int = 2

    def __post_init__(self) -> None:
        _checks.count(self.double, "double", low=0)
        _checks.count(self.single, "single", low=0)
        rotary = _checks.choice(self.positions, POSITIONS, "positions") == "rotary"
        for name in ("width", "heads", "tokens", "ratio"):
            _checks.count(getattr(self, name), name)
        check_heads(self.width, self.heads, per_head=2 if rotary else 1)

    def build(self, units: Units, *, answer: str = "velocity", generator: Rng = 0) -> Modulated:
        trunk, width = partial(MMDiTTrunk, self), self.width
        return Modulated(units, self, trunk, width=width, answer=answer, generator=generator)


class SingleStream(nn.Module):
    """Block of the shape `config` that all tokens share, drawn from `rng`."""

    def __init__(self, config: MMDiTConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        width, self.hidden = config.width, config.ratio * config.width
        self.modulation = Linear(width, 3 * width).zero()
        self.heads = Heads(width, config.heads)
        self.first = Linear(width, 3 * width + self.hidden).draw(rng)
        self.last = Linear(width + self.hidden, width).draw(rng)

    def forward(
        self, h: Tensor, told: Tensor, *, shown: Tensor | None, angles: Tensor | None
    ) -> Tensor:
        """Return tokens `h` ``(n, m, w)`` after the block; arguments as in :func:`joint`."""
        shift, scale, gate = self.modulation(told).chunk(3, -1)
        qkv, hidden = self.first(modulated(h, shift, scale)).tensor_split([-self.hidden], -1)
        q, k, v = self.heads.split(qkv, angles)
        read = attention(q, k, v, shown=shown).transpose(1, 2).flatten(2)
        hidden = nn.functional.gelu(hidden, approximate="tanh")
        return h + gate * self.last(torch.cat([read, hidden], -1))


class MMDiTTrunk(nn.Module):
    """Blocks of the shape `config` for cells in `units`; `out` numbers answer, `rng` draws."""

    angles: Tensor | None

    def __init__(
        self, config: MMDiTConfig, units: Units, *, out: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        width, heads, ratio = config.width, config.heads, config.ratio
        self.patches = Patches(len(units.centre), out, most=config.tokens, width=width, rng=rng)
        rotary, turns = config.positions == "rotary", width // heads // 2
        where = torch.arange(float(self.patches.tokens))[:, None]
        angles = where * _LONGEST ** (-torch.arange(turns) / max(turns, 1))
        self.register_buffer("angles", angles if rotary else None)
        places = torch.randn(len(where), width, generator=rng)
        self.places = None if rotary else nn.Parameter(places)
        self.token = nn.Parameter(torch.randn(1, width, generator=rng))
        self.of_condition = Linear(units.features, width).draw(rng) if units.features else None
        self.apart = nn.ModuleList(
            nn.ModuleList(Stream(width, heads, ratio, rng=rng) for _ in range(2))
            for _ in range(config.double)
        )
        self.shared = nn.ModuleList(SingleStream(config, rng=rng) for _ in range(config.single))

    def forward(self, x: Tensor, told: Tensor, context: Context | None) -> Tensor:
        """Answer for cells `x`, ``(n, d)``, of what is `told` and of tokens of the `context`."""
        h, told, shown, angles = self.patches.cut(x), told[:, None], None, self.angles
        h = h if self.places is None else h + self.places
        cells, c = h.shape[1], self.token.expand(len(x), 1, -1)
        if context is not None and self.of_condition is not None:
            own = context.of_cells(self.of_condition(context.tokens.to(x)))
            c = torch.cat([c, own.expand(len(x), -1, -1)], 1)
            present = context.of_cells(context.present.to(x.device))
            shown = nn.functional.pad(present, (cells + 1, 0), value=True)[:, None, None]
        for pair in cast(list[list[Stream]], self.apart):
            h, c = joint(pair, [h, c], told, shown=shown, angles=angles)
        h = torch.cat([h, c], 1)
        if angles is not None:  # a condition's tokens stand nowhere
            angles = nn.functional.pad(angles, (0, 0, 0, c.shape[1]))
        for block in self.shared:
            h = block(h, told, shown=shown, angles=angles)
        return self.patches.answer(h[:, :cells], x.shape[1])
