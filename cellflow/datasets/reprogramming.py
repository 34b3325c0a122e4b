"""Reprogramming of fibroblasts: three time points with genes and cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellflow.datasets.bundled import bundled

if TYPE_CHECKING:
    from anndata import AnnData

SOURCES = {
    "cells": "Schiebinger et al. 2019, Optimal-transport analysis of single-cell gene expression "
    "identifies developmental trajectories in reprogramming, Cell 176, 928-943. "
    "doi:10.1016/j.cell.2019.01.006",
    "files": "theislab/moscot (BSD-3-Clause licence, Copyright (c) 2022, Theis Lab)",
}


def reprogramming() -> AnnData:
    """Load 1,000 cells from the reprogramming of mouse fibroblasts, with genes and cell types.

    A subset of three time points, half a day apart, of Schiebinger et al. (2019), in which
    fibroblasts are made pluripotent. Too few cells for the rare types, of which some have three
    cells or fewer; enough to go from genes to fates in a minute.

    Returns
    -------
    AnnData
        Cells and genes, shape (1000, 1479), with

        - ``X``: expression, sparse float32: counts scaled to 10,000 a cell over these genes, then
          the logarithm of one more than that;
        - ``obs["day"]``: 10, 10.5 or 11, float, of 318, 316 and 366 cells;
        - ``obs["cell_type"]``: categorical: ``"Epithelial"``, ``"IPS"``, ``"Neural"``,
          ``"Stromal"``, ``"Trophoblast"`` or ``"unknown"``;
        - ``uns["sources"]``: what to cite, and the licence.

    Examples
    --------
    >>> from cellflow import datasets
    >>> adata = datasets.reprogramming()
    >>> adata.shape
    (1000, 1479)
    >>> adata.obs["cell_type"].value_counts().head(2).to_dict()
    {'Stromal': 424, 'unknown': 325}
    """
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    stored = bundled("reprogramming.npz")
    obs = pd.DataFrame(
        {"day": stored["t"], "cell_type": pd.Categorical(stored["cell_type"])},
        index=[f"cell-{row}" for row in range(len(stored["t"]))],
    )
    var = pd.DataFrame(index=stored["genes"])
    return AnnData(csr_matrix(stored["X"]), obs, var, uns={"sources": dict(SOURCES)})
