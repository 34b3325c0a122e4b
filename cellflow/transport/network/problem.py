"""A transport problem between two clouds, whose costs are seen tile by tile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cellflow._typing import Tensor

#: Largest number of costs that are kept (128 MB in float32); more are computed anew in each pass.
KEPT = 2**25
#: Entries of a tile of costs that are not kept.
TILE = 2**21


@dataclass(frozen=True, eq=False)
class Problem:
    """Two clouds in float64, of total mass one each, with points at most 1 from the origin.

    Parameters
    ----------
    x, y
        Points, shapes ``(n, d)`` and ``(m, d)``.
    a, b
        Masses in whole units, shapes ``(n,)`` and ``(m,)``, int64, of equal totals.
    power
        1 or 2: the cost is this power of the distance.
    max_pivots
        Bound on the pivots of the network simplex.
    """

    x: Tensor
    y: Tensor
    a: np.ndarray
    b: np.ndarray
    power: int
    max_pivots: int

    @cached_property
    def _doubt(self) -> float:
        """Bound on the rounding of a squared distance, in units of the machine's epsilon / 2."""
        return 2.0 * self.x.shape[1] + 24.0

    def margin(self, dtype: torch.dtype) -> float:
        """Bound on the rounding of a cost in a tile, and of a dual that is compared with it."""
        squared = self._doubt * torch.finfo(dtype).eps / 2
        return (math.sqrt(squared) if self.power == 1 else squared) + 8 * torch.finfo(dtype).eps

    @cached_property
    def dtype(self) -> torch.dtype:
        """float32 where its rounding is far below the costs that matter."""
        step = max(1, len(self.x) // 100), max(1, len(self.y) // 100)
        typical = float(torch.cdist(self.x[:: step[0]], self.y[:: step[1]]).quantile(0.1))
        small = 50 * self.margin(torch.float32) <= typical**self.power
        exact = torch.get_float32_matmul_precision() == "highest"
        return torch.float32 if small and exact else torch.float64

    def costs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the costs between points, rounded."""
        x, y = x.to(self.dtype), y.to(self.dtype)
        out = torch.addmm((y * y).sum(1)[None, :], x, y.T, alpha=-2.0)
        out.add_((x * x).sum(1)[:, None]).clamp_(min=0.0)
        return out.sqrt_() if self.power == 1 else out

    @cached_property
    def _all_costs(self) -> Tensor:
        return self.costs(self.x, self.y)

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the cost matrix in blocks of rows, each with the row at which it begins."""
        n, m = len(self.x), len(self.y)
        if n * m <= KEPT:
            yield 0, self._all_costs.numpy()
            return
        step = max(1, TILE // m)
        for start in range(0, n, step):
            yield start, self.costs(self.x[start : start + step], self.y).numpy()


def whole_units(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masses of total one as whole numbers of equal totals: exactly if uniform."""
    if (a == a[0]).all() and (b == b[0]).all():
        common = math.gcd(len(a), len(b))
        return np.full(len(a), len(b) // common), np.full(len(b), len(a) // common)
    units = []
    for mass in (a, b):
        unit = np.rint(mass * 2.0**60).astype(np.int64)  # half an ulp of the least mass, or less
        unit[unit.argmax()] += 2**60 - unit.sum()
        units.append(unit)
    return units[0], units[1]
