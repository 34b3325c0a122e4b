"""Cubic splines with constant noise: paths that bend, for a flow smooth across snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


@PATHS.register("spline")
@dataclass(frozen=True)
class Spline(Path):
    r"""Cubic path with given velocities at both ends, and constant noise.

    .. math:: x_s = (1 - s) x_0 + s x_1 + s (1 - s) [(1 - s) a - s b] + \sigma z, \quad
        a = h \dot x_0 - (x_1 - x_0), \; b = h \dot x_1 - (x_1 - x_0)

    with `h` the span of the pair and its velocities ``rate0`` and ``rate1`` as :math:`\dot x_0,
    \dot x_1`; see :func:`cellflow.batches.spline_rates` for where they come from. Pairs without
    velocities go straight, as on :class:`~cellflow.paths.Straight`; `sigma` is the constant
    standard deviation, in data units.
    """

    needs_rates: ClassVar[bool] = True

    sigma: float = 0.1

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        line = torch.lerp(pairs.x0, pairs.x1, s)
        bends = _bends(pairs)
        if bends is None:
            return line
        start, end = bends
        return line + s * (1 - s) * ((1 - s) * start - s * end)

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        move, bends = pairs.x1 - pairs.x0, _bends(pairs)
        if bends is None:
            return move
        start, end = bends
        return move + (1 - s) * (1 - 3 * s) * start - s * (2 - 3 * s) * end


def _bends(pairs: Pairs) -> tuple[Tensor, Tensor] | None:
    """Return a and b of the formula of :class:`Spline`; None for pairs without velocities."""
    if pairs.rate0 is None or pairs.rate1 is None:
        return None
    move = pairs.x1 - pairs.x0
    return pairs.span * pairs.rate0 - move, pairs.span * pairs.rate1 - move
