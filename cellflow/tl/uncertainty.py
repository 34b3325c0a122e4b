"""Where in time an ensemble is least sure."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from cellflow._typing import Rng
from cellflow.answers.uncertainty import disagreements
from cellflow.fits import Ensemble


def uncertainty(
    adata: AnnData, fit: Ensemble, *, per_interval: int = 7, rng: Rng = 0
) -> pd.DataFrame:
    """Tell at which times between the snapshots the members of an ensemble disagree most.

    Of the ensemble `fit`, what :func:`fit` returned with ``members=``; with ``bootstrap=True``, the
    spread covers which cells were sampled, too. It looks at `per_interval` times between two
    snapshots, with `rng` the seed or generator of stochastic predictions; see
    :func:`cellflow.answers.uncertainty.disagreement`. As a day to sample next, one in
    the middle of the widest gap shrank errors more than the least sure one, on simulated branching
    courses. In state space, see ``obs["velocity_uncertainty"]`` of :func:`velocity`.

    The table has one row for each time: ``spread``, how far a cell is from the members' mean (root
    mean square, in data units), ``moved``, how far it has come, and ``relative``, their ratio. The
    same is in ``uns["uncertainty"]`` of `adata`.
    """
    out = pd.DataFrame(disagreements(fit, per_interval=per_interval, generator=rng))
    out["relative"] = (out["spread"] / out["moved"]).where(out["moved"] > 0, 0.0)
    adata.uns["uncertainty"] = out.copy()
    adata.uns["uncertainty_fit"] = {"unit": fit.course.unit}
    return out
