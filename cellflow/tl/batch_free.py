"""Cells without what their batches add."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from cellflow._typing import Rng
from cellflow.answers import batch_free as taken_out
from cellflow.densities import Density
from cellflow.densities.flows import NSF
from cellflow.pp.reading import labels_of
from cellflow.tl._reading import read_all, resolve_density


def batch_free(
    adata: AnnData,
    *,
    batch_key: str,
    label_key: str | None = None,
    reference: str | None = None,
    method: str | Density | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Map the cells of all batches to where those of one batch would be, by densities.

    Whatever batches differ by is taken away, biology as well: see
    :func:`cellflow.answers.batch_free`. For batches of equal composition, such as halves of one
    sample; not for batches that are days or conditions.

    Parameters
    ----------
    adata
        Cells of two batches or more; times are not needed.
    batch_key
        Column of ``obs`` with the batch of each cell.
    label_key
        Column of ``obs`` with what should stay, such as the cell type: it is not used for the map.
    reference
        Batch whose cells stay where they are; that of most cells when omitted.
    method, use_rep, n_dims, steps, rng
        As in :func:`outlier_score`; a flow is fitted to each batch, one layer of splines unless
        told otherwise. Of several layers, fewer labels stay.

    Returns
    -------
    DataFrame
        Rows ``"before"`` and ``"after"``: ``batch_accuracy``, how often nearest neighbours tell
        the batch of a cell that was left out, and its ``chance``; with a `label_key` also
        ``label_purity``, the share of nearest neighbours with a cell's own label, and
        ``label_transfer``, that among neighbours in other batches. The same is in
        ``uns["batch_free"]``, and the cells are in ``obsm["X_batch_free"]``.
    """
    x, rows = read_all(adata, use_rep, n_dims), np.arange(adata.n_obs)
    found = taken_out(
        x,
        labels_of(adata, batch_key, rows, name="batch_key"),
        NSF(1) if method is None else resolve_density(method),
        labels=None if label_key is None else labels_of(adata, label_key, rows),
        reference=reference,
        steps=steps,
        generator=rng,
    )
    out = pd.DataFrame(found.scores, index=["before", "after"])
    adata.obsm["X_batch_free"] = found.x.cpu().numpy()
    adata.uns["batch_free"] = out.copy()
    return out
