"""AdamW on one tensor."""

from __future__ import annotations

import torch
from torch.optim.adamw import adamw

from cellflow._typing import Tensor


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), by torch's own update.

    The class around that update is torch's as well, but loads its compiler when first used (a
    second), and adds as much to a step as the update of a small network takes.

    Parameters
    ----------
    value
        What is optimised; its ``grad`` is set before each step.
    rate
        Learning rate; to be changed at will.
    weight_decay
        Of the values, times the learning rate.
    """

    def __init__(self, value: Tensor, *, rate: float, weight_decay: float) -> None:
        self.value, self.rate, self.weight_decay = value, rate, weight_decay
        self.fused = value.device.type in ("cpu", "cuda")
        self.mean = torch.zeros_like(value, requires_grad=False)
        self.square = torch.zeros_like(value, requires_grad=False)
        # A fused update counts on the device, the other on the CPU.
        self.count = torch.zeros((), device=value.device if self.fused else "cpu")

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; where there is no gradient, none."""
        if self.value.grad is None:
            return
        adamw(
            [self.value],
            [self.value.grad],
            [self.mean],
            [self.square],
            [],
            [self.count],
            fused=self.fused,
            foreach=False if not self.fused else None,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
