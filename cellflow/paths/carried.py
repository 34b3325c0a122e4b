"""Ways on which a reference drift carries cells, led to their partners: Curly flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cellflow._typing import Tensor
from cellflow.paths.path import PATHS, Pairs, Path


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
