"""Brownian bridges: the path of SB-CFM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("bridge")
@dataclass(frozen=True)
class BrownianBridge(Path):
    r"""Brownian bridge of diffusion :math:`\sigma` (Tong et al. 2024, SB-CFM, eq. 20).

    .. math:: x_s = (1 - s) x_0 + s x_1 + \sigma \sqrt{\text{span}\; s (1 - s)}\, z

    See :cite:`tong2024improving`. Its velocity has a variance that diverges logarithmically at both
    ends, so draws of s keep `margin` away from them. The diffusion `sigma` is positive, in data
    units per square root of time.
    """

    sigma: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        sigma = _checks.number(self.sigma, "sigma", low=0.0, open_low=True)
        object.__setattr__(self, "sigma", sigma)
        _checks.number(self.margin, "margin", low=0.0, high=0.49)

    @property
    def diffusion(self) -> float:
        return self.sigma

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return torch.lerp(pairs.x0, pairs.x1, s)

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return self.sigma * (pairs.span * s * (1 - s)).sqrt()

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1 - pairs.x0

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 0.5 * self.sigma * (1 - 2 * s) * (pairs.span / (s * (1 - s))).sqrt()

    def half_variance_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 0.5 * self.sigma**2 * (1 - 2 * s)
