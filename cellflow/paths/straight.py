"""Straight lines with constant noise: the path of I-CFM and OT-CFM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("straight")
@dataclass(frozen=True)
class Straight(Path):
    r"""Straight path :math:`x_s = (1 - s) x_0 + s x_1 + \sigma z` (Tong et al. 2024, eq. 14-15).

    It is the path of I-CFM and OT-CFM :cite:`tong2024improving`.

    Parameters
    ----------
    sigma
        Constant standard deviation, in data units.
    """

    constant_std: ClassVar[bool] = True

    sigma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _checks.number(self.sigma, "sigma", low=0.0))

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.lerp(pairs.x0, pairs.x1, s)

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.full_like(s, self.sigma)

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1 - pairs.x0

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.zeros_like(s)
