"""Distances of samples too large for an exact plan, with standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.metrics._inputs import as_clouds
from cellflow.metrics.sliced import sliced_costs
from cellflow.metrics.wasserstein import wasserstein1, wasserstein2


@dataclass(frozen=True)
class Estimate:
    """A distance that was estimated by random draws.

    Parameters
    ----------
    value
        The estimate, in data units.
    standard_error
        Its standard error over the draws: not the bias of a finite sample.
    draws
        Number of draws.
    floor
        The same estimate between two samples of one cloud, where there is one: what a perfect
        prediction would score.
    """

    value: float
    standard_error: float
    draws: int
    floor: float | None = None


def sampled_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    *,
    power: int = 1,
    x_mass: ArrayLike | None = None,
    y_mass: ArrayLike | None = None,
    size: int = 2_000,
    repeats: int = 5,
    generator: Rng = 0,
) -> Estimate:
    r"""Mean exact :math:`W_1` or :math:`W_2` between random samples of two clouds.

    The mean over samples of `size` cells is larger than the distance of the clouds, and more so
    the smaller the samples: by :math:`O(\mathrm{size}^{-1/d})` where the clouds are close (Fournier
    and Guillin 2015, theorem 1), whatever the number of repeats. So compare values at one `size`
    only, and with `floor`, which carries the same bias where the distance itself is zero.

    Parameters
    ----------
    x, y
        Cells, shapes ``(n, d)`` and ``(m, d)``; each at least ``2 * size``.
    power
        1 for :math:`W_1`, 2 for :math:`W_2`.
    x_mass, y_mass
        Masses, shapes ``(n,)`` and ``(m,)``; cells are drawn in proportion (without them,
        without replacement), and weigh the same once drawn.
    size
        Cells of each sample.
    repeats
        Number of pairs of samples, at least 2. They overlap where ``repeats * size`` exceeds the
        cells, and the standard error is then somewhat too small.
    generator
        Seed or generator of the samples. The fixed default makes values comparable.

    Returns
    -------
    The mean, its standard error over the repeats, and the floor: the mean distance of disjoint
    samples of one cloud, x and y in turn.

    Raises
    ------
    ValueError
        If the cells or masses are malformed, or are fewer than ``2 * size``.
    RuntimeError
        If a solver stops before the optimum.
    """
    clouds = as_clouds(x, y, x_mass, y_mass)
    size = _checks.count(size, "size")
    repeats = _checks.count(repeats, "repeats", low=2)
    metric = wasserstein1 if _checks.count(power, "power", high=2) == 1 else wasserstein2
    most = min(len(clouds.x), len(clouds.y)) // 2
    if size > most:
        got = f"at most {most}, half of the smaller cloud"
        raise ValueError(_checks.message("size", f"{size}", got))
    rng = _checks.as_generator(generator)
    values, floors = [], []
    for k in range(repeats):
        left = _sample(clouds.x, clouds.a, size, uniform=clouds.uniform, rng=rng)
        right = _sample(clouds.y, clouds.b, size, uniform=clouds.uniform, rng=rng)
        values.append(metric(left[0], right[0]))
        floors.append(metric(*(left if k % 2 == 0 else right)))
    mean = torch.tensor(values, dtype=torch.float64)
    error = float(mean.std()) / repeats**0.5
    return Estimate(float(mean.mean()), error, repeats, sum(floors) / repeats)


def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    *,
    power: int = 2,
    x_mass: ArrayLike | None = None,
    y_mass: ArrayLike | None = None,
    n_projections: int = 256,
    generator: Rng = 0,
) -> Estimate:
    r"""Sliced Wasserstein distance of either order, with its error over the lines.

    :math:`SW_p^p` is the mean of :math:`W_p^p` over random lines; its standard error is carried
    over to :math:`SW_p` by the delta method. For ``power=2`` the value is that of
    :func:`cellflow.metrics.sliced_wasserstein2`.

    Parameters
    ----------
    x, y
        Cells, shapes ``(n, d)`` and ``(m, d)``.
    power
        The order p: 1 or 2.
    x_mass, y_mass
        Masses, shapes ``(n,)`` and ``(m,)``; uniform when omitted, scaled to total one.
    n_projections
        Number of lines, at least 2.
    generator
        Seed or generator of the lines. The fixed default makes values comparable.

    Returns
    -------
    The distance and its standard error, in data units.

    Raises
    ------
    ValueError
        If the cells or masses are malformed.
    """
    clouds = as_clouds(x, y, x_mass, y_mass)
    power = _checks.count(power, "power", high=2)
    n_projections = _checks.count(n_projections, "n_projections", low=2)
    each = sliced_costs(clouds, n_projections, power=power, generator=generator)
    mean = float(each.mean())
    error = float(each.std()) / n_projections**0.5
    value = mean ** (1.0 / power)
    slope = value / (power * mean) if mean > 0.0 else 0.0
    return Estimate(value, slope * error, n_projections)


def _sample(
    cells: Tensor, mass: Tensor, size: int, *, uniform: bool, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw two samples of `size` cells; disjoint, unless masses ask for replacement."""
    if uniform:
        drawn = torch.randperm(len(cells), generator=rng, device=rng.device)[: 2 * size]
    else:
        level = mass.cumsum(0).to(rng.device)
        point = torch.rand(2 * size, generator=rng, dtype=torch.float64, device=rng.device)
        drawn = torch.searchsorted(level, point * level[-1]).clamp_(max=len(cells) - 1)
    drawn = drawn.to(cells.device)
    return cells[drawn[:size]], cells[drawn[size:]]
