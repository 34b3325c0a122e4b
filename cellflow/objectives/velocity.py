"""Regression of the conditional velocity, or of what tells of it."""

from __future__ import annotations

from cellflow._typing import Field, Tensor
from cellflow.dynamics import Dynamics
from cellflow.objectives._mean import mean_square
from cellflow.paths import PathPoint
from cellflow.paths.prediction import Mix


def velocity_matching(dynamics: Dynamics, batch: PathPoint) -> dict[str, Tensor]:
    """Conditional flow matching (OT-CFM, :cite:`tong2024improving`, eq. 9).

    Its gradient is that of the regression on the marginal velocity, which has no closed form. The
    term is the mean squared error of the velocity of `dynamics` on `batch`, in squared data units
    per squared time.
    """
    found = dynamics.velocity(batch.t, batch.x)
    return {"velocity": mean_square(found, batch.velocity, batch.weight)}


def mean_velocity_matching(field: Field, batch: PathPoint) -> dict[str, Tensor]:
    r"""Regression of the velocity of the path's mean, without the noise's part.

    The velocity of a Gaussian path is :math:`\dot\mu + \dot\sigma z`. Its second term diverges at
    the ends of a bridge, yet its expectation given the state is known from the score,
    :math:`E[z \mid x] = -\sigma \nabla\log p`. So `field` learns :math:`E[\dot\mu \mid x]`,
    whose target is bounded, and the velocity is that less :math:`\sigma\dot\sigma` times the score.
    The term is the mean squared error on `batch`, in squared data units per squared time.
    """
    found = field(batch.t, batch.x)
    return {"velocity": mean_square(found, batch.mean_velocity, batch.weight)}


def prediction_matching(
    found: Tensor, batch: PathPoint, mix: Mix, *, predict: str
) -> dict[str, Tensor]:
    """Regression of velocity, noise, score or target on a path from noise.

    The term is the mean squared error of `found` ``(n, d)``, what was to `predict` on `batch`,
    where target and noise have the shares `mix`. That of a score is weighted by the variance of the
    path, that of a target so that what the state does not tell of it counts alike at all times
    (:cite:`karras2022`, eq. 8).
    """
    wanted = mix.convert(batch.noise, batch.x, given="noise", wanted=predict)
    factor = {"score": mix.sigma, "target": mix.size / mix.sigma}.get(predict, 1.0)
    return {predict: mean_square(factor * found, factor * wanted, batch.weight)}
