"""What moves the weights: all of them as one vector, and optimisers of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from cellflow import _checks
from cellflow._typing import Tensor


class FlatParameters:
    """The trained parameters of a module as one vector: the optimiser touches one tensor.

    The module's parameters and gradients become views of `value` and `grad`: clipping, averaging
    and saving are one operation each.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.value = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.value.grad = self.grad = torch.zeros_like(self.value)
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            p.data = self.value.data[part].view_as(p)
            p.grad = self.grad[part].view_as(p)
            start += p.numel()


class AdamW:
    """Adam with decoupled weight decay :cite:`loshchilov2019`, by torch's own update.

    The class around that update is torch's as well, but loads its compiler when first used (a
    second), and adds as much to a step as the update of a small network takes.
    """

    def __init__(self, value: Tensor, *, rate: float, weight_decay: float) -> None:
        self.value, self.rate, self.weight_decay = value, rate, weight_decay
        self.fused = value.device.type in ("cpu", "cuda")
        self.mean = torch.zeros_like(value, requires_grad=False)
        self.square = torch.zeros_like(value, requires_grad=False)
        # A fused update counts on the device, the other on the CPU.
        self.count = torch.zeros((), device=value.device if self.fused else "cpu")

    @property
    def state(self) -> dict[str, Tensor]:
        """What the next step depends on."""
        return {"exp_avg": self.mean, "exp_avg_sq": self.square}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from `tensors`, the state after this `step`."""
        for name, own in self.state.items():
            own.copy_(tensors[name])
        self.count.fill_(step)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step; where there is no gradient, none."""
        if self.value.grad is None:
            return
        value, grad, mean, square = [self.value], [self.value.grad], [self.mean], [self.square]
        how: dict[str, Any] = {"lr": self.rate, "weight_decay": self.weight_decay}
        how |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
        how |= {"fused": self.fused, "foreach": None if self.fused else False}
        adamw(value, grad, mean, square, [], [self.count], **how)


class OwnOptimizer:
    """An optimiser of the user's own, at the pace of a schedule."""

    def __init__(
        self, value: Tensor, make: Callable[[list[Tensor]], torch.optim.Optimizer], *, rate: float
    ) -> None:
        with _checks.by_function("optimizer"):
            optimizer = make([value])
        if not isinstance(optimizer, torch.optim.Optimizer):
            got = f"a function that returns {type(optimizer).__name__}"
            raise TypeError(_checks.message("optimizer", got, "a torch.optim.Optimizer"))
        self.value, self.optimizer, self.unit = value, optimizer, rate
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.rate = self.unit

    def step(self) -> None:
        """Take one step, at the rates of the optimiser times the share of ours that is left."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate / self.unit
        self.optimizer.step()

    @property
    def state(self) -> dict[str, Tensor]:
        """What the next step depends on."""
        return {k: v for k, v in self.optimizer.state[self.value].items() if isinstance(v, Tensor)}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from `tensors`, the state after this `step`."""
        like = self.value
        for k, v in tensors.items():
            self.optimizer.state[like][k] = v.to(like.device) if v.ndim else v.clone()
