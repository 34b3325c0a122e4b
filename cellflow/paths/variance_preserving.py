"""The variance-preserving diffusion from noise: DDPM in continuous time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("variance_preserving")
@dataclass(frozen=True)
class VariancePreserving(Path):
    r"""Variance-preserving diffusion :math:`x_s = \alpha_s x_1 + \sqrt{1 - \alpha_s^2}\, z`.

    .. math:: \alpha_s = e^{-\frac12 T(1 - s)}, \quad
        T(\tau) = \beta_{\min} \tau + \tfrac12 (\beta_{\max} - \beta_{\min}) \tau^2

    Song et al. 2021 (:cite:`song2021`, eq. 11 and 33) as a path (:cite:`lipman2023`, eq. 19). The
    source is the standard normal; towards it, :math:`dX = -\tfrac12\beta X d\tau + \sqrt\beta\,dW`.
    The rates `beta_min` at the cells and `beta_max` at the source are per interval, positive and
    increasing. Draws of s keep a `margin` from 0 and 1, where the velocity has no bound.
    """

    source_free: ClassVar[bool] = True

    beta_min: float = 0.1
    beta_max: float = 20.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        low = _checks.number(self.beta_min, "beta_min", low=0.0, open_low=True)
        _checks.number(self.beta_max, "beta_max", low=low)
        _checks.number(self.margin, "margin", low=0.0, high=0.49, open_low=True)

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        return self._alpha(s) * pairs.x1

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        return (-(-self._total(s)).expm1()).sqrt()

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return 0.5 * self._beta(s) * self._alpha(s) * pairs.x1

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        return -0.5 * self._beta(s) * self._alpha(s) ** 2 / self.std(pairs, s)

    def diffusion_at(self, s: Tensor) -> Tensor:
        return self._beta(s).sqrt()

    def _beta(self, s: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * (1 - s)

    def _total(self, s: Tensor) -> Tensor:
        return 0.5 * (1 - s) * (self.beta_min + self._beta(s))

    def _alpha(self, s: Tensor) -> Tensor:
        return (-0.5 * self._total(s)).exp()
