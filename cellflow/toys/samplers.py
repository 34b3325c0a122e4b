"""Seeded samplers of the two-dimensional clouds that flow-matching papers draw.

All draw in float64 on the generator's device and convert last, so a seed gives the same cells in
every dtype (torch's default when omitted) and on every device.
"""

from __future__ import annotations

import math

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.toys.exact import Gaussian

#: The reference code draws the eight modes with *covariance* sqrt(0.1)·I where its argument is
#: called a variance of 0.1; published figures show this wider spread of 0.56.
EIGHT_GAUSSIANS_STD = 0.1**0.25


def gaussian(
    n: int,
    mean: ArrayLike,
    cov: ArrayLike,
    *,
    generator: Rng = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample `n` cells ``(n, d)`` of a normal law, from a seed or `generator`.

    Its `mean` has shape ``(d,)``; its `cov` ``(d, d)`` may be singular. `dtype` and `device` are
    those of the result.
    """
    law = Gaussian(mean, cov)
    rng = _checks.as_generator(generator)
    noise = _normal(_checks.count(n, "n"), law.dim, rng)
    values, vectors = torch.linalg.eigh(law.cov.to(noise.device))
    root = vectors * values.clamp(min=0.0).sqrt()
    return _convert(law.mean.to(noise.device) + noise @ root.T, dtype, device)


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
    noise = _normal(_checks.count(n, "n"), 2, rng)
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


def s_curve(
    n: int,
    *,
    noise: float = 0.1,
    scale: float = 1.0,
    generator: Rng = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Sample `n` cells ``(n, 2)`` of a letter S: two three-quarter circles that meet at the origin.

    Their radius is one; the `noise` is normal in each coordinate, and `scale` multiplies the cells
    with their noise. A seed or `generator` decides the cells; `dtype` and `device` are those of
    the result.
    """
    noise, scale = _checks.number(noise, "noise", low=0.0), _checks.number(scale, "scale")
    rng, n = _checks.as_generator(generator), _checks.count(n, "n")
    angle = 3.0 * math.pi * (_uniform(n, rng) - 0.5)
    curve = torch.stack([angle.sin(), angle.sign() * (angle.cos() - 1.0)], 1)
    return _convert(scale * (curve + noise * _normal(n, 2, rng)), dtype, device)


def _normal(n: int, d: int, rng: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=rng, dtype=torch.float64, device=rng.device)


def _uniform(n: int, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64, device=rng.device)


def _convert(x: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    place = _checks.as_device(device, x.device)
    return x.to(dtype=torch.get_default_dtype() if dtype is None else dtype, device=place)
