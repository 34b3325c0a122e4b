"""Regression of the conditional velocity."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.paths import PathPoint


def velocity_matching(dynamics: Dynamics, batch: PathPoint) -> dict[str, Tensor]:
    """Conditional flow matching (Tong et al. 2024, OT-CFM, eq. 9).

    Its gradient is that of the regression on the marginal velocity, which nobody can evaluate.

    Parameters
    ----------
    dynamics
        Dynamics whose velocity is being learned.
    batch
        Points on the paths of ``n`` pairs.

    Returns
    -------
    ``{"velocity": term}``, the mean squared error in squared data units per squared time.
    """
    error = dynamics.velocity(batch.t, batch.x) - batch.velocity
    return {"velocity": error.square().mean()}
