"""Wasserstein-Fisher-Rao geodesics between single cells, whose masses change as they move."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import Cost
from cellflow.paths.path import PATHS, Pairs, Path

#: Least angle between two cells, so that angles have ratios.
LEAST = 1e-6


@PATHS.register("wfr")
@dataclass(frozen=True)
class Cone(Path):
    r"""Wasserstein-Fisher-Rao geodesic between a cell and its partner, with constant noise.

    In a plane, the source is at (1, 0), and its partner, which has q² times its mass, at the angle
    :math:`\varphi = \min(\lVert x_1 - x_0 \rVert / 2\delta, \pi/2)` and radius q. The geodesic is
    the straight line :math:`z_s` between the two: the mass is :math:`\lvert z_s \rvert^2` times the
    source's, quadratic in s, and the part of the way that is done is :math:`\arg z_s / \varphi`
    (:cite:`chizat2018unbalanced`; :cite:`peng2026`). Its velocity and growth rate are

    .. math:: \dot x_s = \frac{q \sin\varphi}{\lvert z_s\rvert^2} \frac{x_1 - x_0}{\varphi}, \qquad
        g_s = \frac{2\, z_s \cdot \dot z_s}{\lvert z_s\rvert^2}.

    Mass moves where much of it is: a cell that all but dies stays, and one that all but began to
    be is where it will be. Pairs whose plan conserves mass go straight, as on
    :class:`~cellflow.paths.Straight`.

    The standard deviation `sigma` and the length `delta` are in data units; `delta`, as in
    :class:`cellflow.costs.WassersteinFisherRao`, is that of the cost by which cells are paired, or
    infinite, when omitted.
    """

    sigma: float = 0.1
    delta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta is not None:
            _checks.number(self.delta, "delta", low=0.0, open_low=True)

    def by_cost(self, cost: Cost) -> Self:
        return self if self.delta is not None else replace(self, delta=cost.delta)

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        if pairs.growth is None:
            return torch.lerp(pairs.x0, pairs.x1, s)
        u, w = self._line(pairs, s)
        return torch.lerp(pairs.x0, pairs.x1, torch.atan2(w, u) / self._angle(pairs))

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        move = pairs.x1 - pairs.x0
        if pairs.growth is None:
            return move
        (u, w), (_, turn) = self._line(pairs, s), self._line(pairs, torch.ones_like(s))
        return turn / ((u * u + w * w) * self._angle(pairs)) * move

    def log_mass(self, pairs: Pairs, s: Tensor) -> Tensor | None:
        if pairs.growth is None:
            return None
        u, w = self._line(pairs, s)
        return (u * u + w * w).log()

    def growth(self, pairs: Pairs, s: Tensor) -> Tensor | None:
        if pairs.growth is None:
            return None
        (u, w), (a, b) = self._line(pairs, s), self._line(pairs, torch.ones_like(s))
        return 2 * (u * (a - 1) + w * b) / ((u * u + w * w) * pairs.span)

    def _angle(self, pairs: Pairs) -> Tensor:
        """Angle between the cells of `pairs`, shape ``(n, 1)``."""
        away = (pairs.x1 - pairs.x0).norm(dim=1, keepdim=True)
        return (away / (2 * (self.delta or math.inf))).clamp(LEAST, math.pi / 2)

    def _line(self, pairs: Pairs, s: Tensor) -> tuple[Tensor, Tensor]:
        """Place of `pairs` in the plane at fraction `s` ``(n, 1)``, both of shape ``(n, 1)``."""
        growth, angle = pairs.growth, self._angle(pairs)
        radius = s if growth is None else s * (growth * pairs.span / 2).exp()
        return 1 - s + radius * angle.cos(), radius * angle.sin()
