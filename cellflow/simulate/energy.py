"""Path energy: how far from optimal transport a flow goes on its way."""

from __future__ import annotations

from typing import Protocol, cast

import torch

from cellflow._typing import ArrayLike
from cellflow.dynamics import Dynamics
from cellflow.simulate.simulate import simulate
from cellflow.simulate.trajectory import Trajectory
from cellflow.simulate.zarr_store import StoredTrajectory


class Flow(Protocol):
    """What simulates cells, such as a fit."""

    def simulate(self, x0: ArrayLike, times: ArrayLike) -> Trajectory | StoredTrajectory:
        """Carry cells `x0` ``(n, d)`` through `times` ``(T,)``."""


def path_energy(
    flow: Dynamics | Flow, x0: ArrayLike, *, t0: float, t1: float, sides: int = 64
) -> float:
    r"""Mean over cells of the span times :math:`\int_{t_0}^{t_1} \lVert v(t, X_t) \rVert^2 dt`.

    Where the flow carries one law into another it is at least their squared W2 distance, with
    equality for optimal transport (:cite:`benamou2000`, proposition 1.1): what rounds of reflow
    bring down. It compares with W2² in any unit of time.

    Parameters
    ----------
    flow
        Dynamics, a fit, or what else has `simulate`; its mean flow is followed.
    x0
        Cells at `t0`, shape ``(n, d)``.
    t0, t1
        Start and end.
    sides
        Of the polygon that stands for a way; its energy is too small by an amount that falls with
        the square of their number.
    """
    times = torch.linspace(t0, t1, sides + 1, dtype=torch.float64)
    way = simulate(flow, x0, times) if isinstance(flow, Dynamics) else flow.simulate(x0, times)
    return float(cast(Trajectory, way).path_energy.mean())
