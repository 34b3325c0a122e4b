"""Regression of the score."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.objectives._mean import mean_square
from cellflow.paths import PathPoint


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
    return {"score": unit * mean_square(found, -batch.noise, batch.weight)}
