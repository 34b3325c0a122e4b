"""Networks as they are evaluated without gradients: fewer and faster operations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.networks import MLP
from cellflow.networks.fast import product

#: Width of hidden layers up to which a step loses by sharing threads.
SMALL = 256


class Evaluator:
    """A network of ours on a CPU in float32, with its units in its weights.

    Equal to the network up to rounding, for scalar times. It is a copy: a network that is
    trained further wants another one.

    Parameters
    ----------
    net
        The network.
    """

    def __init__(self, net: MLP) -> None:
        u = net.units
        self.net, self.units = net, u
        self.centre = net.centre.float()
        linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
        first = linear[0].weight.detach().double()
        dim = len(u.centre)
        self.bias, self.of_time = linear[0].bias.detach().double(), first[:, dim:]
        self.weight = (first[:, :dim] / u.scale).float()
        self.rest: list[tuple[Tensor, Tensor] | nn.Module] = [
            (layer.weight.detach(), layer.bias.detach()) if isinstance(layer, nn.Linear) else layer
            for layer in list(net.layers)[1:-1]
        ]
        self.rest.append(
            (linear[-1].weight.detach() * net.unit, linear[-1].bias.detach() * net.unit)
        )

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate at the scalar time `t` and cells `x` ``(n, d)``."""
        time = self._time(float(t))
        centred = x - self.centre
        h = product(centred, self.weight, (self.bias + self.of_time @ time).float())
        for step in self.rest:
            if isinstance(step, tuple):
                h = product(h, *step)
            else:
                h = functional.silu(h, inplace=True) if isinstance(step, nn.SiLU) else step(h)
        if self.net.gate is not None:  # of time alone: the same for all cells
            factor = self.net.gate(time.float()[None]) * (self.net.unit / self.units.scale)
            h.addcmul_(centred, factor)
        return h[:, 0] if self.net.answer == "growth" else h

    def _time(self, t: float) -> Tensor:
        """What the network sees of a time, ``(1 + 2 k,)`` in float64."""
        config = self.net.config
        time = (t - self.units.origin) / self.units.span if config.time else 0.0
        phase = time * math.pi * torch.arange(1, config.time_features + 1, dtype=torch.float64)
        return torch.cat([phase.new_full((1,), time), phase.sin(), phase.cos()])


def evaluated(dynamics: Dynamics, like: Tensor) -> Dynamics:
    """Return `dynamics` with evaluators in place of the networks that have one.

    Parameters
    ----------
    dynamics
        Its fields are networks, dataclasses that hold networks, or anything else, which stays.
    like
        Cells in the type and on the device that the fields will be asked for.
    """
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return dynamics
    made: dict[int, Evaluator] = {}  # one for each network, so that shared ones stay shared

    def of(field: Any) -> Any:
        if _is_plain(field):
            if id(field) not in made:
                made[id(field)] = Evaluator(field)
            return made[id(field)]
        if is_dataclass(field) and not isinstance(field, type):
            parts = {f.name: getattr(field, f.name) for f in fields(field) if f.init}
            changed = {k: of(v) for k, v in parts.items() if _is_plain(v)}
            return replace(field, **changed) if changed else field
        return field

    return replace(
        dynamics,
        velocity=of(dynamics.velocity),
        score=of(dynamics.score),
        growth=of(dynamics.growth),
    )


def is_small(dynamics: Dynamics) -> bool:
    """Whether the fields are made of nothing but small networks, which threads cannot speed up."""
    fields = [f for f in (dynamics.velocity, dynamics.score, dynamics.growth) if f is not None]
    networks = [list(_networks(field)) for field in fields]
    return all(networks) and all(
        isinstance(net, MLP) and net.config.width <= SMALL for nets in networks for net in nets
    )


def _networks(field: Any) -> Iterator[nn.Module]:
    parts = [field] if isinstance(field, nn.Module) else getattr(field, "__dict__", {}).values()
    return (part for part in parts if isinstance(part, nn.Module))


def _is_plain(field: Any) -> bool:
    """Whether `field` is a network of ours that nobody has changed or is listening to."""
    return (
        type(field) is MLP
        and not (field._forward_hooks or field._forward_pre_hooks)
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in field.parameters())
    )
