"""Blood formation with clones: cells whose relatives are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellflow.datasets.bundled import bundled

if TYPE_CHECKING:
    from anndata import AnnData

SOURCES = {
    "cells": "Weinreb et al. 2020, Lineage tracing on transcriptional landscapes links state to "
    "fate during differentiation, Science 367, eaaw3381. doi:10.1126/science.aaw3381",
    "files": "AllonKleinLab/cospar at ca54cad (MIT licence, Copyright (c) 2020 Shou-Wen Wang)",
}


def larry() -> AnnData:
    """Load 781 blood cells of three days, each with the clone that it belongs to.

    Mouse blood progenitors with heritable barcodes (LARRY; Weinreb et al. 2020): cells of one
    clone descend from one cell. 113 of the 339 clones have cells on days 4 and 6, which is a truth
    to measure fates by.

    Returns
    -------
    AnnData
        Cells without expression, shape (781, 0), with

        - ``obs["day"]``: 2, 4 or 6, float, of 34, 316 and 431 cells;
        - ``obs["cell_type"]``: categorical, 12 types, of which ``"undiff"`` is undifferentiated;
        - ``obs["clone"]``: categorical, ``"clone-0"`` to ``"clone-338"``;
        - ``obsm["X_pca"]``: principal components, shape (781, 40), float32;
        - ``obsm["X_spring"]``: the authors' two-dimensional layout;
        - ``uns["sources"]``: what to cite, and the licence.

    Examples
    --------
    >>> from cellflow import datasets
    >>> adata = datasets.larry()
    >>> adata.obsm["X_pca"].shape
    (781, 40)
    """
    import pandas as pd
    from anndata import AnnData

    stored = bundled("larry.npz")
    names = [f"clone-{k}" for k in range(stored["clones"].shape[1])]
    clone = stored["clones"].argmax(1)  # each cell is in exactly one
    obs = pd.DataFrame(
        {
            "day": stored["t"].astype(float),
            "cell_type": pd.Categorical(stored["state"]),
            "clone": pd.Categorical.from_codes(clone, names),
        },
        index=[f"cell-{row}" for row in range(len(clone))],
    )
    obsm = {"X_pca": stored["X"], "X_spring": stored["spring"]}
    return AnnData(obs=obs, obsm=obsm, uns={"sources": dict(SOURCES)})
