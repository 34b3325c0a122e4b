"""Networks that time and condition modulate: what they share, and a residual perceptron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import silu

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.encoder import SetEncoder
from cellflow.networks.layers import QUIET, WAVES, Linear, modulated, waves
from cellflow.networks.network import NETWORKS, SMALL, Network, NetworkConfig, Units


class Modulated(Network):
    """A field ``(t, x) -> (n, d)``, or ``(n,)`` for growth, that a `trunk` of shape `config` makes.

    The `units` and the `answer` are those of every :class:`Network`. The trunk is made of the units
    by ``trunk(units, out=, rng=)``, with how many numbers it answers and the `generator` of initial
    weights. It maps cells ``(n, d)``, `width` features of what is told of their time and condition,
    ``(n or 1, width)``, and the tokens of the condition to answers ``(n, out)``.
    """

    def __init__(
        self,
        units: Units,
        config: NetworkConfig,
        trunk: Callable[..., nn.Module],
        *,
        width: int,
        answer: str,
        generator: Rng,
    ) -> None:
        super().__init__(units, answer)
        self.config, self.small = config, config.small
        rng = _checks.as_generator(generator)
        first, last = Linear(1 + 2 * WAVES, width).draw(rng), Linear(width, width).draw(rng)
        self.time = nn.Sequential(first, nn.SiLU(), last)
        self.horizon = max(len(units.knots) - 1, 1)
        self.encoder: SetEncoder | None = None
        if units.features:
            self.encoder = SetEncoder(units.features, width, pool="attention", generator=rng)
        self.trunk = trunk(units, out=1 if answer == "growth" else len(units.centre), rng=rng)

    def forward(self, t: Tensor, x: Tensor, context: Context | None = None) -> Tensor:
        """Evaluate at time `t`, scalar or ``(n,)``, cells `x` ``(n, d)``, and their `context`."""
        own = next(self.parameters()).dtype
        if x.dtype != own:
            return self(t, x.to(own), context).to(x.dtype)
        u = self.units
        told = self.time(waves(((t.reshape(-1, 1) - u.origin) / u.span).to(x), self.horizon))
        if self.encoder is not None:
            pooled = self.encoder(context)
            told = told + (pooled if context is None else context.of_cells(pooled))
        centred = (x - self.centre.to(x.dtype)) / u.scale
        out = self.trunk(centred, silu(told), context) * self.unit
        return out[:, 0] if self.answer == "growth" else out


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
