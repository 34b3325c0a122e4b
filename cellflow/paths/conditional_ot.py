"""The conditional optimal-transport path from noise: flow matching of Lipman et al."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("conditional_ot")
@dataclass(frozen=True)
class ConditionalOT(Path):
    r"""Straight path from noise :math:`x_s = s x_1 + (1 - (1 - \sigma_{\min}) s)\,z`.

    Lipman et al. 2023 (:cite:`lipman2023`, eq. 20-22). The source is the standard normal; it is the
    optimal transport of each cell's Gaussian, not of the population. There, cells have a standard
    deviation of `sigma_min` around them, in data units, positive; draws of s keep a `margin` from 0
    and 1.
    """

    source_free: ClassVar[bool] = True

    sigma_min: float = 1e-3
    margin: float = 1e-3

    def __post_init__(self) -> None:
        _checks.number(self.sigma_min, "sigma_min", low=0.0, high=1.0, open_low=True)
        _checks.number(self.margin, "margin", low=0.0, high=0.49, open_low=True)

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return s * pairs.x1

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 1 - (1 - self.sigma_min) * s

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.full_like(s, self.sigma_min - 1)
