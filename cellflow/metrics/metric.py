"""The metric: a distance between two clouds of cells, checked, centred and in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from cellflow import _checks
from cellflow._doors import door
from cellflow._registry import Registry
from cellflow._typing import ArrayLike, Tensor

#: From ``(x, y, *, x_mass=None, y_mass=None)`` to a number.
Distance: TypeAlias = Callable[..., float]


@dataclass(frozen=True)
class Metric:
    """A distance between clouds, with the facts that others must know of it.

    Parameters
    ----------
    function
        From cells ``x (n, d)``, ``y (m, d)`` and the keywords `x_mass`, `y_mass` to the distance.
    label
        What figures call it, as matplotlib writes it; its registered name when empty.
    exponent
        Power of the data's scale with which the distance grows; None where it has its own scale.
    rotation_invariant, of_holdouts
        Whether it is exactly the same for rotated data; and whether hold-outs offer it as a score:
        it is exact, and has the same scale for all clouds.
    settings
        Further keywords under which the law tests hold.
    """

    function: Distance
    label: str = ""
    exponent: int | None = 1
    rotation_invariant: bool = True
    of_holdouts: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        x_mass: ArrayLike | None = None,
        y_mass: ArrayLike | None = None,
    ) -> float:
        """Return the distance of `x` and `y`, with masses `x_mass` and `y_mass`."""
        return self.function(x, y, x_mass=x_mass, y_mass=y_mass)


#: Metrics by name.
METRICS: Registry[Metric] = Registry("cellflow.metrics")


def metric(
    name: str, make: Callable[[Distance], Metric] = Metric
) -> Callable[[Distance], Distance]:
    """Return a decorator that registers a function as a metric called `name`, by way of `make`."""

    def enter(function: Distance) -> Distance:
        made = door(function)
        METRICS.register(name)(make(made))
        return made

    return enter


#: Largest number of entries of a block of pairwise distances (64 MB in float64).
BLOCK_ENTRIES = 8_000_000


@dataclass(frozen=True, eq=False)
class Clouds:
    """Two clouds ``(n, d)`` and ``(m, d)`` on one device, in float64, about their common mean.

    Their masses `a` ``(n,)`` and `b` ``(m,)`` are positive and have total one each.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor


def as_clouds(
    x: ArrayLike, y: ArrayLike, *, x_mass: ArrayLike | None, y_mass: ArrayLike | None
) -> Clouds:
    """Check two clouds and their masses; cells of zero mass are dropped."""
    x = _checks.as_cells(x, "x", min_cells=1).detach()
    y = _checks.as_cells(y, "y", min_cells=1).detach().to(x.device)
    if x.shape[1] != y.shape[1]:
        got, expected = f"{y.shape[1]} dimensions", f"{x.shape[1]} as in `x`"
        remedy = "Project both clouds to the same space."
        raise ValueError(_checks.message("y", got, expected, remedy))
    x, a = _weighted(x.double(), x_mass, "x_mass")
    y, b = _weighted(y.double(), y_mass, "y_mass")
    centre = (x.mean(0) + y.mean(0)) / 2
    return Clouds(x - centre, y - centre, a, b)


def _weighted(x: Tensor, mass: ArrayLike | None, name: str) -> tuple[Tensor, Tensor]:
    n = x.shape[0]
    if mass is None:
        return x, x.new_full((n,), 1.0 / n)
    mass = _checks.as_numbers(mass, name).to(x).detach()
    if mass.shape != (n,):
        raise ValueError(_checks.message(name, f"shape {tuple(mass.shape)}", f"({n},)"))
    if not bool(torch.isfinite(mass).all() and (mass >= 0).all() and mass.sum() > 0):
        got = f"values from {mass.min():g} to {mass.max():g}"
        raise ValueError(_checks.message(name, got, "finite, not negative, and not all zero"))
    kept = mass > 0
    return x[kept], mass[kept] / mass[kept].sum()


def row_blocks(n: int, m: int) -> list[slice]:
    """Slices over n rows so that each block of an ``(n, m)`` matrix stays bounded."""
    step = max(1, BLOCK_ENTRIES // m)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def within_mean(
    full_mean: float, self_value: float, mass: Tensor, *, unbiased: bool, name: str
) -> float:
    r"""Mean of a kernel over pairs of the sample called `name`, of masses :math:`a`.

    The V-statistic `full_mean`, :math:`\sum_{ij} a_i a_j k_{ij}`, or where `unbiased` the
    U-statistic :math:`\sum_{i \ne j} a_i a_j k_{ij} / (1 - \sum_i a_i^2)`, with `self_value` the
    kernel of a cell with itself.
    """
    if not unbiased:
        return full_mean
    if len(mass) < 2:
        raise ValueError(_checks.message(name, "1 cell", "at least 2 for an unbiased estimate"))
    repeated = float(mass @ mass)
    return (full_mean - repeated * self_value) / (1.0 - repeated)
