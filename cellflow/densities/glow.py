"""Glow for vectors: normalise, mix, couple."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cellflow._typing import Tensor
from cellflow.densities.density import DENSITIES, Density, zuko


@torch.no_grad()
def normalise(density: Density, flow: Any, z: Tensor) -> None:
    """Let element-wise layers of `flow`, of any `density`, give cells `z` mean 0 and variance 1."""
    for layer in flow.transform.transforms:
        if isinstance(layer, zuko().ElementWiseTransform):
            std, mean = torch.std_mean(z, 0, correction=0)
            log = -std.clamp(min=1e-2).log()
            layer.phi[0].copy_(-mean * log.exp())
            layer.phi[1].copy_(log / (1 + log.abs() / math.log(1e-3)))  # zuko's smallest slope
        z = layer()(z)


@DENSITIES.register("glow")
@dataclass(frozen=True)
class Glow(Density):
    r"""Glow for vectors: layers :math:`y = s \odot x + b`, :math:`y = L U P x`, affine coupling.

    Of :cite:t:`kingma2018`. Each layer normalises (first so that the cells have mean zero and
    variance one), permutes and mixes linearly, with triangular `L` and `U`, and scales and shifts
    one half by the other. Fast both ways, for correlated dimensions.
    """

    def build(self, dim: int) -> nn.Module:
        flow, layers, transforms = couplings(self, dim), [], zuko("transforms")
        once = zuko().UnconditionalTransform
        for coupling in flow.transform.transforms:
            order = once(transforms.PermutationTransform, torch.randperm(dim), buffer=True)
            mix = once(transforms.LULinearTransform, torch.eye(dim))
            layers += [zuko().ElementWiseTransform(dim), order, mix, coupling]
        return zuko().Flow(layers, flow.base)

    start = normalise


def couplings(density: Density, dim: int) -> Any:
    """Return a flow of affine couplings of `dim` dimensions, as `density` says, that rest."""
    flow = zuko().RealNVP(dim, **density.layers)
    for coupling in flow.transform.transforms:
        for parameter in list(coupling.parameters())[-2:]:
            nn.init.zeros_(parameter)
    return flow
