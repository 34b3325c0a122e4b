"""Clouds in an order of their own, centred and in float32, as the sweeps take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cellflow.transport.clouds.equal_mass_pieces import Entries
from cellflow.transport.clouds.matching import CHUNK, Both

#: Seed of the direction along which points are put in order.
DIRECTION = 20


@dataclass(frozen=True, eq=False)
class SortedClouds:
    """Two clouds in an order that depends on their coordinates alone.

    Points `x` ``(n, d)`` and `y` ``(m, d)``, float32, are about their common centre in units of
    `scale`, their root mean square distance from it. Their weights `a` and `b`, float64, have
    total one; `uniform` says which are equal. `orders` are the original rows of the points.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    uniform: tuple[bool, bool]
    orders: Both
    scale: float

    @classmethod
    def of(cls, points: Both, masses: Both, uniform: tuple[bool, bool]) -> SortedClouds:
        """Put two clouds of points, in single or double precision, in order."""
        sides = zip(points, masses, uniform, strict=True)
        orders = [_order(x, None if equal else mass) for x, mass, equal in sides]
        ordered = list(zip(points, orders, strict=True))
        means = [sum(part.sum(0) for part in _parts(x, order)) / len(x) for x, order in ordered]
        centre = (means[0] + means[1]) / 2
        squares = [
            sum(float(((part - centre) ** 2).sum()) for part in _parts(x, order)) / len(x)
            for x, order in ordered
        ]
        scale = (sum(squares) / 2) ** 0.5 or 1.0
        x, y = (np.empty(cloud.shape, np.float32) for cloud in points)
        for out, side in zip((x, y), ordered, strict=True):
            for k, part in enumerate(_parts(*side)):
                out[k * CHUNK : (k + 1) * CHUNK] = (part - centre) / scale
        # Summed in this order, too: the last digit of a total must not depend on the rows.
        a, b = (mass[order] / mass[order].sum() for mass, order in zip(masses, orders, strict=True))
        return cls(x, y, a, b, uniform, (orders[0], orders[1]), scale)

    def original(self, entries: Entries) -> Entries:
        """Return entries of a plan by original rows and columns, in their order."""
        rows, cols = self.orders[0][entries.rows], self.orders[1][entries.cols]
        order = np.lexsort((cols, rows))
        return Entries(rows[order], cols[order], entries.mass[order])


def _parts(x: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the points in order, some at a time, in float64."""
    for k in range(0, len(x), CHUNK):
        yield x[order[k : k + CHUNK]].astype(np.float64)


def _order(x: np.ndarray, mass: np.ndarray | None) -> np.ndarray:
    """Order points by their projection, the same for equal points wherever they stand."""
    from cellflow.transport.clouds import _block_auction

    weight = np.random.default_rng(DIRECTION).normal(size=x.shape[1])
    tag = np.empty(len(x))
    _block_auction.tags(np.ascontiguousarray(x), weight, tag)
    return np.argsort(tag, kind="stable") if mass is None else np.lexsort((mass, tag))
