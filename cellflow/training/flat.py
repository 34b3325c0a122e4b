"""The parameters of a module as one vector."""

from __future__ import annotations

import torch
from torch import nn


class Flat:
    """All parameters of a module as one vector, so that the optimiser touches one tensor.

    The module's parameters and gradients become views of it: clipping, averaging and saving are
    one operation each.

    Parameters
    ----------
    module
        The network.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.value = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.value.grad = torch.zeros_like(self.value)
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            p.data = self.value.data[part].view_as(p)
            p.grad = self.value.grad[part].view_as(p)
            start += p.numel()
