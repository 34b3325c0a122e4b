"""What networks share that time and condition modulate."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.functional import silu

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.encoder import SetEncoder
from cellflow.networks.layers import WAVES, Linear, waves
from cellflow.networks.network import Network, NetworkConfig, Units


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
