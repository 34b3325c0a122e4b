"""What a network makes of a condition: a row of features, whatever the order of its tokens."""

from __future__ import annotations

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.layers import Linear

#: How the features of several tokens become those of their condition.
POOLS = ("mean", "attention")


class SetEncoder(nn.Module):
    """Features of conditions, from the set of tokens that each has (:cite:`zaheer2017`, eq. 1).

    Each token, of `features` numbers, gets `width` learned ones. They are pooled by their mean, or
    by attention, a weight that is learned for each of them; a small map follows. The condition of
    which nothing is said has one learned token. Initial weights are drawn from `generator`.

    Parameters
    ----------
    features
        Numbers of a token, e.
    width
        Features of a condition.
    pool
        ``"mean"`` or ``"attention"``.
    generator
        Seed or generator.
    """

    def __init__(
        self, features: int, width: int, *, pool: str = "mean", generator: Rng = 0
    ) -> None:
        super().__init__()
        rng = _checks.as_generator(generator)
        self.features = _checks.count(features, "features")
        self.token, self.out = Linear(features, width).draw(rng), Linear(width, width).draw(rng)
        attentive = _checks.choice(pool, POOLS, "pool") == "attention"
        self.weigh = Linear(width, width).draw(rng) if attentive else None
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, context: Context | None = None) -> Tensor:
        """Return one row for each condition, ``(c, width)``; the null condition's for None."""
        own = self.null
        context = Context.nothing(self.features) if context is None else context
        if context.tokens.shape[2] != self.features:
            got, expected = f"{context.tokens.shape[2]} features", f"{self.features}, as built"
            raise ValueError(_checks.message("context", got, expected))
        present = context.present.to(own.device)
        learned = nn.functional.silu(self.token(context.tokens.to(own)))
        h = torch.cat([own.expand(len(present), 1, -1), learned], 1)
        shown = torch.cat([~present.any(1, keepdim=True), present], 1)[..., None]
        if self.weigh is None:
            pooled = (h * shown).sum(1) / shown.sum(1)
        else:
            pooled = (h * self.weigh(h).masked_fill(~shown, -torch.inf).softmax(1)).sum(1)
        return self.out(pooled)
