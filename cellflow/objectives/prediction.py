"""Regression of what a network predicts on a path from noise."""

from __future__ import annotations

from cellflow._typing import Tensor
from cellflow.objectives._mean import mean_square
from cellflow.paths import Mix, PathPoint


def prediction_matching(
    found: Tensor, batch: PathPoint, mix: Mix, *, predict: str
) -> dict[str, Tensor]:
    r"""Regression of velocity, noise, score or target.

    The term is the mean squared error of `found` ``(n, d)`` on `batch`, against what was drawn
    there (:cite:`salimans2022`, section 4), by the name `predict`; `mix` are the shares of target
    and noise. That of a score is weighted by the variance of the path, as in
    :func:`~cellflow.objectives.score_matching`.
    """
    wanted = mix.convert(batch.noise, batch.x, given="noise", wanted=predict)
    if predict == "score":
        found, wanted = batch.std * found, batch.std * wanted
    return {predict: mean_square(found, wanted, batch.weight)}
