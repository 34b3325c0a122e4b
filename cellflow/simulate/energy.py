"""Path energy: how much farther than optimal transport a flow goes."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.simulate import simulate


@runtime_checkable
class Flow(Protocol):
    """What simulates cells, such as a fit."""

    def simulate(self, x0: ArrayLike, times: ArrayLike) -> Any:
        """Carry cells `x0` ``(n, d)`` through `times` ``(T,)``."""


def path_energy(flow: Dynamics | Flow, x0: ArrayLike, *, t0: float, t1: float) -> float:
    r"""Mean over cells of the span times :math:`\int_{t_0}^{t_1} \lVert v(t, X_t) \rVert^2 dt`.

    The mean flow of `flow`, dynamics or a fit, is followed from cells `x0` ``(n, d)`` at `t0` until
    `t1`. The energy is at least the squared W2 distance of the laws at both ends, in any unit of
    time, and that for optimal transport (:cite:`benamou2000`, proposition 1.1). It is measured
    along polygons of 64 sides.
    """
    if not isinstance(flow, Dynamics | Flow):
        raise TypeError(_checks.message("flow", type(flow).__name__, "dynamics or a fit"))
    start, end = _checks.number(t0, "t0"), _checks.number(t1, "t1")
    times = torch.linspace(start, end, 65, dtype=torch.float64)
    way = simulate(flow, x0, times) if isinstance(flow, Dynamics) else flow.simulate(x0, times)
    return float(polygon_energy(way.x).mean())


def polygon_energy(x: Tensor) -> Tensor:
    """Energy ``(n,)`` of polygons through states `x` ``(T, n, d)`` at even times."""
    return (len(x) - 1) * x.diff(dim=0).square().sum((0, 2))
