"""Named loss terms, regressions in which pairs weigh by their mass; their sum is the loss."""

from __future__ import annotations

import torch
from torch.nn.functional import mse_loss

from cellflow._typing import Field, Tensor
from cellflow.dynamics import Dynamics
from cellflow.networks import Network
from cellflow.paths import PathPoint
from cellflow.paths.prediction import Mix

#: Its multiples, less whole numbers, fill every interval evenly.
_GOLDEN = 0.6180339887498949


def velocity_matching(dynamics: Dynamics, batch: PathPoint) -> dict[str, Tensor]:
    """Conditional flow matching (OT-CFM, :cite:`tong2024improving`, eq. 9).

    Its gradient is that of the regression on the marginal velocity, which has no closed form. The
    term is the mean squared error of the velocity of `dynamics` on `batch`, in squared data units
    per squared time.
    """
    found = dynamics.velocity(batch.t, batch.x)
    return {"velocity": _mean_square(found, batch.velocity, batch.weight)}


def mean_velocity_matching(field: Field, batch: PathPoint) -> dict[str, Tensor]:
    r"""Regression of the velocity of the path's mean, without the noise's part.

    The velocity of a Gaussian path is :math:`\dot\mu + \dot\sigma z`. Its second term diverges at
    the ends of a bridge, yet its expectation given the state is known from the score,
    :math:`E[z \mid x] = -\sigma \nabla\log p`. So `field` learns :math:`E[\dot\mu \mid x]`,
    whose target is bounded, and the velocity is that less :math:`\sigma\dot\sigma` times the score.
    The term is the mean squared error on `batch`, in squared data units per squared time.
    """
    found = field(batch.t, batch.x)
    return {"velocity": _mean_square(found, batch.mean_velocity, batch.weight)}


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
    return {predict: _mean_square(factor * found, factor * wanted, batch.weight)}


def average_velocity_matching(network: Network, batch: PathPoint) -> dict[str, Tensor]:
    r"""Learn average velocities from conditional ones (MeanFlow, :cite:`geng2025`, eq. 6 and 9).

    The average velocity of a cell from `t` until `e`,
    :math:`(e - t)\, u(x_t, t, e) = \int_t^e v(x_\tau, \tau)\, d\tau`, obeys

    .. math:: u(x, t, e) = v(x, t) + (e - t)\,(\partial_t u + v \cdot \nabla_x u),

    since the derivative of both sides along the flow is the same, and :math:`u(x, t, t) = v(x, t)`.
    The right-hand side, with the `network` as it is and the velocity of the pair, is regressed. (In
    the paper cells go from the later time to the earlier one, which turns signs.) Half of the
    points of `batch` have :math:`e = t`, the others end evenly between it and the next snapshot.
    The term is the mean squared error, in squared data units per squared time.
    """
    t, x, v = batch.t, batch.x, batch.velocity
    knots = torch.tensor(network.units.knots, dtype=t.dtype, device=t.device)
    end = knots[torch.searchsorted(knots, t, right=True).clamp(1, len(knots) - 1)]
    share = torch.arange(1, len(t) + 1, dtype=torch.float64) * _GOLDEN % 1
    until = t + (2 * share - 1).clamp(min=0.0).to(t) * (end - t)
    with torch.no_grad():
        rate = torch.func.jvp(
            lambda t, x: network.between(t, until, x), (t, x), (torch.ones_like(t), v)
        )[1]
        wanted = v + (until - t)[:, None].to(x) * rate
    return {"velocity": _mean_square(network.between(t, until, x), wanted, batch.weight)}


def score_matching(dynamics: Dynamics, batch: PathPoint, *, unit: float = 1.0) -> dict[str, Tensor]:
    r"""Denoising score matching, weighted by the variance of the path.

    The term is the mean of :math:`\lVert \sigma_s\, s(t, x) + z \rVert^2`, whose minimum is the
    score of the population (:cite:`tong2024simulation`, section 3.3: their weight
    :math:`\lambda(s) = 2\sigma_s/\sigma^2` on :math:`\tfrac12\sigma^2` times the score). It
    bounds the target at both ends, where the score of a single bridge diverges.

    `dynamics` have the score that is learned on `batch`. The term is dimensionless but for its
    factor `unit`, the square of a velocity, which makes it commensurate with the others.
    """
    if dynamics.score is None:
        raise ValueError("dynamics: expected a score to learn, got None.")
    found = batch.std * dynamics.score(batch.t, batch.x)
    return {"score": unit * _mean_square(found, -batch.noise, batch.weight)}


def growth_matching(
    dynamics: Dynamics, batch: PathPoint, *, unit: float = 1.0
) -> dict[str, Tensor]:
    r"""Regression of the rate at which pairs gain mass.

    A pair whose mass goes as :math:`m_s = m_0 e^{g\,\Delta t}` contributes :math:`g` where its
    path is met, in proportion to the mass it has there. The population then obeys
    :math:`\partial_t p + \nabla\cdot(p v) = g p` with both its snapshots as marginals: the
    conditional argument of flow matching (:cite:`tong2024improving`, theorem 3.1), with masses.

    `dynamics` have the growth that is learned; a `batch` without growth counts as zero. The term is
    in inverse squared units of time but for its factor `unit`.
    """
    if dynamics.growth is None:
        raise ValueError("dynamics: expected a growth to learn, got None.")
    rate = dynamics.growth(batch.t, batch.x)
    target = torch.zeros_like(rate) if batch.growth is None else batch.growth
    return {"growth": unit * _mean_square(rate[:, None], target[:, None], batch.weight)}


def _mean_square(found: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
    """Mean square of ``found - wanted`` ``(n, d)``, pairs weighing by `weight` ``(n,)``.

    None weighs them equally.
    """
    if weight is None:
        return mse_loss(found, wanted)
    return (weight * (found - wanted).square().mean(1)).mean() / weight.mean()
