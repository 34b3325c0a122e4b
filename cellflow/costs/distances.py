"""Distances between all pairs of cells, and the regularisation that goes with their squares."""

from __future__ import annotations

import torch

from cellflow import _checks
from cellflow._typing import Tensor


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared Euclidean distance between all pairs of `x` ``(n, d)`` and `y` ``(m, d)``.

    Both clouds are centred first: in float32 and far from the origin, the expansion
    :math:`|x|^2 - 2 x \cdot y + |y|^2` otherwise loses every digit. It is never negative.
    """
    centre = torch.cat([x, y]).mean(0) if len(x) + len(y) < 100_000 else (x.mean(0) + y.mean(0)) / 2
    x, y = x - centre, y - centre
    out = torch.addmm((y * y).sum(1)[None, :], x, y.T, alpha=-2.0)
    return out.add_((x * x).sum(1)[:, None]).clamp_(min=0.0)


def half_squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Transport cost ``½|x − y|²`` between all pairs of `x` ``(n, d)`` and `y` ``(m, d)``."""
    return squared_distance(x, y).mul_(0.5)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance between all pairs of `x` ``(n, d)`` and `y` ``(m, d)``."""
    return squared_distance(x, y).sqrt_()


def brownian_epsilon(sigma: float, span: float) -> float:
    r"""Entropic regularisation :math:`\varepsilon = \sigma^2\,\text{span}` for ``½|x − y|²``.

    The diffusion `sigma` of the Brownian reference is in data units per square root of time, the
    `span` is the time between the snapshots; the regularisation is in squared data units.
    """
    sigma = _checks.number(sigma, "sigma", low=0.0, open_low=True)
    epsilon = sigma * sigma * _checks.number(span, "span", low=0.0, open_low=True)
    return _checks.number(epsilon, "sigma", low=0.0, open_low=True)  # squared, it may be too large
