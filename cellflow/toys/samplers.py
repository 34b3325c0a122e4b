"""Seeded samplers of the two-dimensional clouds that flow-matching papers draw.

All draw in float64 on the generator's device and convert last, so a seed gives the same cells in
every dtype (torch's default when omitted) and on every device.
"""

from __future__ import annotations

import math

import torch

from cellflow import _checks
from cellflow._typing import Rng, Tensor

#: The reference code draws the eight modes with *covariance* sqrt(0.1)·I where its argument is
#: called a variance of 0.1; published figures show this wider spread of 0.56.
EIGHT_GAUSSIANS_STD = 0.1**0.25


def eight_gaussians(
    n: int,
    *,
    radius: float = 5.0,
    std: float = EIGHT_GAUSSIANS_STD,
    generator: Rng = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample `n` cells ``(n, 2)`` of eight normal modes on a circle (Tong et al. 2023, OT-CFM).

    The circle has this `radius`, a mode this `std` in each coordinate. A seed or `generator`
    decides the cells; `dtype` and `device` are those of the result.
    """
    radius = _checks.number(radius, "radius", low=0.0)
    std = _checks.number(std, "std", low=0.0)
    rng = _checks.as_generator(generator)
    n = _checks.count(n, "n")
    noise = torch.randn(n, 2, generator=rng, dtype=torch.float64, device=rng.device)
    mode = torch.randint(8, (n,), generator=rng, device=rng.device)
    angle = mode.double() * (math.pi / 4)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return _convert(radius * circle + std * noise, dtype, device)


def moons(
    n: int,
    *,
    noise: float = 0.2,
    scale: float = 3.0,
    shift: float = -1.0,
    generator: Rng = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample `n` cells ``(n, 2)`` of two half circles, scaled as in Tong et al. 2023 (OT-CFM).

    Angles are drawn uniformly, not laid on a grid, so the cells are independent. Each cell moves
    along the diagonal by one uniform draw from 0 to `noise`, added to both coordinates, which is
    what the published figures use; not isotropic normal noise. Unit half circles are multiplied by
    `scale`, then moved by `shift` in both coordinates. A seed or `generator` decides the cells;
    `dtype` and `device` are those of the result.
    """
    noise = _checks.number(noise, "noise", low=0.0)
    scale, shift = _checks.number(scale, "scale"), _checks.number(shift, "shift")
    rng, n = _checks.as_generator(generator), _checks.count(n, "n")
    angle = math.pi * _uniform(n, rng)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1.0 - angle.cos(), 0.5 - angle.sin()], 1)
    is_lower = torch.randint(2, (n, 1), generator=rng, device=rng.device).bool()
    cells = torch.where(is_lower, lower, upper) + noise * _uniform(n, rng)[:, None]
    return _convert(scale * cells + shift, dtype, device)


def _uniform(n: int, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64, device=rng.device)


def _convert(x: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    place = _checks.as_device(device, x.device)
    return x.to(dtype=torch.get_default_dtype() if dtype is None else dtype, device=place)
