"""Straight lines with constant noise: the path of I-CFM and OT-CFM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("straight")
@dataclass(frozen=True)
class Straight(Path):
    r"""Straight path :math:`x_s = (1 - s) x_0 + s x_1 + \sigma z` (Tong et al. 2024, eq. 14-15).

    It is the path of I-CFM and OT-CFM :cite:`tong2024improving`. Its standard deviation `sigma` is
    in data units.
    """

    sigma: float = 0.1

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.lerp(pairs.x0, pairs.x1, s)

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1 - pairs.x0
