"""Paths that bend, with constant noise: cubic splines, and ways on which a drift carries cells."""

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


@PATHS.register("carried")
@dataclass(frozen=True)
class Carried(Path):
    r"""Way of the source under a reference drift, led evenly to its partner, with constant noise.

    .. math:: x_s = \phi_s(x_0) + s\,(x_1 - \phi_1(x_0)) + \sigma z, \qquad
        \dot\phi_s = h f(\phi_s), \; \phi_0(x_0) = x_0

    with `h` the span of the pair and `f` the field that the velocities of the snapshots tell
    (:class:`cellflow.batches.Reference`). The cells of each source are coupled from where `f`
    carries them, :math:`\phi_1(x_0)`. The path is relative to `f`: a pair that `f` joins has no
    action :math:`\int\lVert \dot x_s - h f(x_s)\rVert^2 ds`, and any other one, up to second order
    in its gap :math:`x_1 - \phi_1(x_0)`, that of a straight line across the gap. It is a closed
    form in the place of the network that Petrović et al. 2025 (:cite:`petrovic2025`, algorithm 1)
    train for this. Without velocities `f` is zero, and this is :class:`~cellflow.paths.Straight`
    with its `sigma`, in data units.
    """

    needs_rates: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    sigma: float = 0.1

    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        line = torch.lerp(pairs.x0, pairs.x1, s)
        if pairs.way is None:
            return line
        return line + torch.einsum("nk,nkd->nd", s ** _powers(pairs.way) - s, pairs.way)

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        move = pairs.x1 - pairs.x0
        if pairs.way is None:
            return move
        k = _powers(pairs.way)
        return move + torch.einsum("nk,nkd->nd", k * s ** (k - 1) - 1, pairs.way)


def _powers(way: Tensor) -> Tensor:
    return torch.arange(2, 2 + way.shape[1], device=way.device)
