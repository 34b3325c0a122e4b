"""What a network makes of a condition: a row of features, whatever the order of its tokens."""

from __future__ import annotations

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.conditions import Context
from cellflow.networks.layers import Linear

#: How the features of several tokens become those of their condition.
POOLS = ("sum", "mean", "attention")


class SetEncoder(nn.Module):
    """Features of conditions, from the set of tokens that each has (:cite:`zaheer2017`, eq. 1).

    Each token, of `features` numbers, gets `width` learned ones. They are pooled by their sum, so
    that the parts of a combination add up; by their mean; or by attention, a weight that is learned
    for each of them. A linear map follows. The condition of which nothing is said has one learned
    token. Initial weights are drawn from `generator`.

    Parameters
    ----------
    features
        Numbers of a token, e.
    width
        Features of a condition.
    pool
        ``"sum"``, ``"mean"`` or ``"attention"``.
    generator
        Seed or generator.
    """

    def __init__(self, features: int, width: int, *, pool: str = "sum", generator: Rng = 0) -> None:
        super().__init__()
        rng = _checks.as_generator(generator)
        self.features = _checks.count(features, "features")
        self.token, self.out = Linear(features, width).draw(rng), Linear(width, width).draw(rng)
        self.pool = _checks.choice(pool, POOLS, "pool")
        self.weigh = Linear(width, width).draw(rng) if pool == "attention" else None
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
        share = shown / shown.sum(1, keepdim=True) if self.pool == "mean" else shown
        if self.weigh is not None:
            share = self.weigh(h).masked_fill(~shown, -torch.inf).softmax(1)
        return self.out((h * share).sum(1))
