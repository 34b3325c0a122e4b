"""Cells that a density of reference cells does not expect."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng
from cellflow.answers import outliers
from cellflow.densities import Density
from cellflow.pp.access import column_of
from cellflow.tl._reading import read_all, resolve_density


def outlier_score(
    adata: AnnData,
    *,
    reference: str | ArrayLike,
    method: str | Density = "nsf",
    false_positive_rate: float = 0.05,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    key_added: str = "outlier",
    rng: Rng = 0,
) -> None:
    """Find cells that a density of reference cells, such as controls, does not expect.

    Half of the reference cells are fitted, and half say from which score on a cell is called:
    :func:`cellflow.answers.outliers`.

    Parameters
    ----------
    adata
        Cells, the reference and the others; times are not needed.
    reference
        Column of ``obs`` that is true for the cells of the reference. Or a mask ``(n,)``, such as
        ``adata.obs["drug"] == "control"``.
    method
        Density to fit: a name of :data:`cellflow.densities.DENSITIES`, or one such as ``NSF()``.
    false_positive_rate
        Share of cells like the reference that may be called outliers.
    use_rep, n_dims, rng
        As in :func:`fit`. Many dimensions need many cells.
    steps
        Training steps at most; those of the density when omitted.
    key_added
        First part of the keys that are written.

    Returns
    -------
    None
        Writes ``obs["outlier_score"]``, the negative log-density in nats (per volume of the
        representation), ``obs["outlier_p"]``, the share of held-back reference cells as strange,
        and ``obs["outlier"]``, whether a cell is called. ``obs["outlier_fitted"]`` says which
        reference cells were fitted: these look less strange than they are. ``uns["outlier"]`` has
        the method, the rate, the threshold of the score and the number of cells held back.
    """
    key, density = _checks.key(key_added, "key_added"), resolve_density(method)
    given = column_of(adata, reference, "reference") if isinstance(reference, str) else reference
    mask = np.asarray(given)
    if mask.dtype != bool or mask.shape != (adata.n_obs,):
        got, expected = f"{mask.dtype} of shape {mask.shape}", f"true or false, ({adata.n_obs},)"
        raise ValueError(_checks.message("reference", got, expected))
    x = read_all(adata, use_rep, n_dims)
    found = outliers(
        x, x[mask], density, false_positive_rate=false_positive_rate, steps=steps, generator=rng
    )
    columns = {"": found.score > found.threshold, "_score": found.score, "_p": found.p_value}
    for name, values in columns.items():
        adata.obs[f"{key}{name}"] = values.cpu().numpy()
    fitted = adata.obs_names[mask][found.fitted.cpu().numpy()]
    adata.obs[f"{key}_fitted"] = adata.obs_names.isin(fitted)
    adata.uns[key] = {
        "method": type(density).__name__,
        "use_rep": use_rep,
        "false_positive_rate": false_positive_rate,
        "threshold": found.threshold,
        "n_held": len(found.calibration),
    }
