"""Poisson flow from heavy-tailed noise: PFGM++."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import special

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("poisson_flow")
@dataclass(frozen=True)
class PoissonFlow(Path):
    r"""Path along the electric field of charges in `extra` more dimensions (PFGM++).

    .. math:: x_s = x_1 + \sigma_s z, \qquad
        p(z) \propto (D + \lVert z \rVert^2)^{-(d + D) / 2}, \qquad
        \sigma_s = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^{1 - s}

    Xu et al. 2023 (:cite:`xu2023`, eq. 4 and 8 with :math:`r = \sigma\sqrt D`): the noise is
    Student's with `D` degrees of freedom. ``D = 1`` is PFGM :cite:`xu2022`, where the noise has no
    mean and learning is hard; as D grows the path becomes
    :class:`~cellflow.paths.VarianceExploding`.

    Parameters
    ----------
    extra
        The number D of further dimensions.
    sigma_min, sigma_max
        Scale of the noise at the cells and at the source, in data units; positive and increasing.
    """

    source_free: ClassVar[bool] = True
    heavy_tailed: ClassVar[bool] = True

    extra: int = 128
    sigma_min: float = 0.01
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        _checks.count(self.extra, "extra")
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

    def from_normal(self, z: Tensor) -> Tensor:
        """Return Student's deviates: `z` ``(n, d)``, each longer by the quantile of its length."""
        square, d = z.double().square().sum(1).cpu().numpy(), z.shape[1]
        share = special.betaincinv(self.extra / 2, d / 2, special.chdtrc(d, square))
        longer = (self.extra * (1 / share - 1) / square) ** 0.5
        return z * torch.from_numpy(longer).to(z)[:, None]

    def to_normal(self, noise: Tensor) -> Tensor:
        """Return the normal deviates that :meth:`from_normal` makes `noise` ``(n, d)`` of."""
        square, d = noise.double().square().sum(1).cpu().numpy(), noise.shape[1]
        beyond = special.betainc(self.extra / 2, d / 2, self.extra / (self.extra + square))
        shorter = (special.chdtri(d, beyond) / square) ** 0.5
        return noise * torch.from_numpy(shorter).to(noise)[:, None]

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)
