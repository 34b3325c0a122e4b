"""Cells as the sweeps take them: in an order of their own, centred, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cellflow._typing import Tensor
from cellflow.timecourse import Snapshot
from cellflow.transport.clouds.equal_mass_pieces import Pairs
from cellflow.transport.clouds.matching import CHUNK

#: Seed of the direction along which cells are put in order.
DIRECTION = 20


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of two snapshots in an order that depends on their coordinates alone.

    Parameters
    ----------
    x, y
        Points about their common centre in units of `scale`, float32, shapes ``(n, d)`` and
        ``(m, d)``.
    a, b
        Weights, float64, of total one.
    uniform
        Whether the weights of each are equal.
    orders
        Row in its snapshot of each point.
    scale
        Root mean square distance of the cells from the centre.
    device
        Of the snapshots.
    """

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    uniform: tuple[bool, bool]
    orders: tuple[np.ndarray, np.ndarray]
    scale: float
    device: torch.device

    @classmethod
    def of(cls, source: Snapshot, target: Snapshot) -> Cells:
        """Put the cells of two snapshots in order."""
        both = source, target
        raw = [_array(snapshot.x) for snapshot in both]
        masses = [snapshot.mass.double().cpu().numpy() for snapshot in both]
        uniform = source.is_uniform, target.is_uniform
        orders = [
            _order(x, None if equal else mass)
            for x, mass, equal in zip(raw, masses, uniform, strict=True)
        ]
        means = [
            sum(part.sum(0) for part in _parts(x, order)) / len(x)
            for x, order in zip(raw, orders, strict=True)
        ]
        centre = (means[0] + means[1]) / 2
        squares = [
            sum(float(((part - centre) ** 2).sum()) for part in _parts(x, order)) / len(x)
            for x, order in zip(raw, orders, strict=True)
        ]
        scale = (sum(squares) / 2) ** 0.5 or 1.0
        points = [np.empty(x.shape, np.float32) for x in raw]
        for out, x, order in zip(points, raw, orders, strict=True):
            for k, part in enumerate(_parts(x, order)):
                out[k * CHUNK : (k + 1) * CHUNK] = (part - centre) / scale
        # Summed in this order, too: the last digit of a total must not depend on the rows.
        a, b = (mass[order] / mass[order].sum() for mass, order in zip(masses, orders, strict=True))
        x, y = points
        return cls(x, y, a, b, uniform, (orders[0], orders[1]), scale, source.x.device)

    def original(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs of points as pairs of cells, in the order of the source's rows."""
        rows, cols = self.orders[0][pairs.rows], self.orders[1][pairs.cols]
        order = np.lexsort((cols, rows))
        parts = rows[order], cols[order], pairs.mass[order]
        rows, cols, mass = (torch.from_numpy(part).to(self.device) for part in parts)
        return rows, cols, mass


def _array(x: Tensor) -> np.ndarray:
    x = x.detach().cpu()
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).numpy()


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
