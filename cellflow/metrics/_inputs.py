"""The shared door of all metrics: checked, centred, float64, masses of total one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor

#: Largest number of entries of a block of pairwise distances (64 MB in float64).
BLOCK_ENTRIES = 8_000_000


@dataclass(frozen=True, eq=False)
class Clouds:
    """Two weighted clouds on one device, in float64, centred at their common mean.

    Parameters
    ----------
    x, y
        Cells, shapes ``(n, d)`` and ``(m, d)``.
    a, b
        Their masses, shapes ``(n,)`` and ``(m,)``, positive, each of total one.
    uniform
        Whether both masses are uniform.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    uniform: bool


def as_clouds(
    x: ArrayLike, y: ArrayLike, x_mass: ArrayLike | None = None, y_mass: ArrayLike | None = None
) -> Clouds:
    """Check two clouds and their masses; cells of zero mass are dropped.

    Raises
    ------
    ValueError
        If the cells are not finite ``(n, d)`` and ``(m, d)`` arrays of equal d, or the masses do
        not fit them, are negative, not finite, or all zero.
    """
    x = _checks.as_cells(x, "x", min_cells=1).detach()
    y = _checks.as_cells(y, "y", min_cells=1).detach().to(x.device)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            _checks.message(
                "y",
                f"{y.shape[1]} dimensions",
                f"{x.shape[1]} as in `x`",
                "Project both clouds to the same space.",
            )
        )
    x, a = _weighted(x.double(), x_mass, "x_mass")
    y, b = _weighted(y.double(), y_mass, "y_mass")
    centre = (x.mean(0) + y.mean(0)) / 2
    return Clouds(x - centre, y - centre, a, b, x_mass is None and y_mass is None)


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
