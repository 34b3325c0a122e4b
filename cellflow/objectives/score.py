"""Regression of the score."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.objectives._mean import mean_square
from cellflow.paths import PathPoint


def score_matching(dynamics: Dynamics, batch: PathPoint, *, unit: float = 1.0) -> dict[str, Tensor]:
    r"""Denoising score matching, weighted by the variance of the path.

    The term is the mean of :math:`\lVert \sigma_s\, s(t, x) + z \rVert^2`, whose minimum is the
    score of the population (Tong et al. 2023, [SF]2M, section 3.3: their weight
    :math:`\lambda(s) = 2\sigma_s/\sigma^2` on :math:`\tfrac12\sigma^2` times the score). It
    bounds the target at both ends, where the score of a single bridge diverges.

    Parameters
    ----------
    dynamics
        Dynamics whose score is being learned.
    batch
        Points on the paths of ``n`` pairs.
    unit
        Factor of the term: the square of a velocity, so that it is commensurate with the others.

    Returns
    -------
    ``{"score": term}``, dimensionless but for `unit`.
    """
    if dynamics.score is None:
        raise ValueError("dynamics: expected a score to learn, got None.")
    found = batch.std * dynamics.score(batch.t, batch.x)
    return {"score": unit * mean_square(found, -batch.noise, batch.weight)}
