"""Variance-exploding diffusion from noise, and Poisson flow, its heavy-tailed relative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import special

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("variance_exploding")
@dataclass(frozen=True)
class VarianceExploding(Path):
    r"""Variance-exploding diffusion, or Poisson flow: :math:`x_s = x_1 + \sigma_s z`.

    With normal noise and :math:`\sigma_s = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^{1 - s}`
    it is that of Song et al. 2021 (:cite:`song2021`, eq. 9 and 31; :cite:`lipman2023`, eq. 17).
    With :math:`p(z) \propto (D + \lVert z \rVert^2)^{-(d + D) / 2}`, Student's noise, it follows
    the electric field of charges in D more dimensions: PFGM++ (:cite:`xu2023`, eq. 4 and 8 with
    :math:`r = \sigma\sqrt D`), and PFGM :cite:`xu2022` where D is 1. As D grows, both are one.

    The noise has the scale `sigma_min` at the cells and `sigma_max` at the source, which must
    exceed the spread of the cells; in data units, positive and increasing. The number D of further
    dimensions is `extra`, None for normal noise. With few of them the noise is so wide that
    learning is hard.
    """

    source_free: ClassVar[bool] = True

    sigma_min: float = 0.01
    sigma_max: float = 20.0
    extra: int | None = None

    def __post_init__(self) -> None:
        low = _checks.number(self.sigma_min, "sigma_min", low=0.0, open_low=True)
        _checks.number(self.sigma_max, "sigma_max", low=low, open_low=True)
        if self.extra is not None:
            _checks.count(self.extra, "extra")

    @property
    def heavy_tailed(self) -> bool:
        return self.extra is not None

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1 + 0 * s

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return self.sigma_max * (-self._rate * s).exp()

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 0 * (pairs.x1 + s)

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return -self._rate * self.std(pairs, s)

    def diffusion_at(self, s: Tensor) -> Tensor | None:
        if self.heavy_tailed:
            return None
        return math.sqrt(2 * self._rate) * self.sigma_max * (-self._rate * s).exp()

    def log_prob(self, x: Tensor) -> Tensor:
        if self.extra is None:
            return super().log_prob(x)
        d, extra = x.shape[1], self.extra
        unit = math.lgamma((extra + d) / 2) - math.lgamma(extra / 2)
        unit -= d * math.log(self.sigma_max * math.sqrt(math.pi * extra))
        square = (x / self.sigma_max).square().sum(1)
        return unit - 0.5 * (extra + d) * torch.log1p(square / extra)

    def from_normal(self, z: Tensor) -> Tensor:
        if self.extra is None:
            return z
        # Each point is moved along its ray to the same quantile of the length.
        square, d = z.double().square().sum(1).cpu().numpy(), z.shape[1]
        share = special.betaincinv(self.extra / 2, d / 2, special.chdtrc(d, square))
        longer = (self.extra * (1 / share - 1) / square) ** 0.5
        return z * torch.from_numpy(longer).to(z)[:, None]

    def to_normal(self, noise: Tensor) -> Tensor:
        if self.extra is None:
            return noise
        square, d = noise.double().square().sum(1).cpu().numpy(), noise.shape[1]
        beyond = special.betainc(self.extra / 2, d / 2, self.extra / (self.extra + square))
        shorter = (special.chdtri(d, beyond) / square) ** 0.5
        return noise * torch.from_numpy(shorter).to(noise)[:, None]
