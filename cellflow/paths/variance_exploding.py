"""The variance-exploding diffusion from noise: noise-conditional score matching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("variance_exploding")
@dataclass(frozen=True)
class VarianceExploding(Path):
    r"""Variance-exploding diffusion :math:`x_s = x_1 + \sigma_s z`, with geometric noise.

    .. math:: \sigma_s = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^{1 - s}

    Song et al. 2021 (:cite:`song2021`, eq. 9 and 31) as a path (:cite:`lipman2023`, eq. 17). The
    source is normal with standard deviation `sigma_max`, which must exceed the spread of the cells.

    Parameters
    ----------
    sigma_min, sigma_max
        Standard deviation at the cells and at the source, in data units; positive and increasing.
    """

    source_free: ClassVar[bool] = True

    sigma_min: float = 0.01
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        low = _checks.number(self.sigma_min, "sigma_min", low=0.0, open_low=True)
        _checks.number(self.sigma_max, "sigma_max", low=low, open_low=True)

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return pairs.x1 + 0 * s

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return self.sigma_max * (-self._rate * s).exp()

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 0 * (pairs.x1 + s)

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return -self._rate * self.std(pairs, s)

    def diffusion_at(self, s: Tensor) -> Tensor:
        return math.sqrt(2 * self._rate) * self.sigma_max * (-self._rate * s).exp()

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)
