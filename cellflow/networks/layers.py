"""Layers that several networks are made of."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import nn


class Linear(nn.Linear):
    """A linear layer whose weights are drawn by its network: torch's would be by a global seed."""

    def reset_parameters(self) -> None:
        """Do nothing."""

    @torch.no_grad()
    def draw(self, generator: torch.Generator, fan_in: int | None = None) -> Self:
        """Draw weights as torch does, uniform within ``1/sqrt(fan_in)``, and return the layer."""
        bound = 1 / math.sqrt(fan_in or self.in_features)
        for parameter in (self.weight, self.bias):
            parameter.uniform_(-bound, bound, generator=generator)
        return self

    @torch.no_grad()
    def zero(self) -> Self:
        """Set the weights to zero, so that what follows is shut at the start; return the layer."""
        for parameter in (self.weight, self.bias):
            parameter.zero_()
        return self
