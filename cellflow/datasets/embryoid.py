"""Embryoid bodies: 27 days of human stem cells left to differentiate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellflow.datasets.bundled import bundled

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["embryoid"]

#: The five sampling windows of the embryoid-body experiment, in days (both ends included).
EMBRYOID_WINDOWS = ((0, 3), (6, 9), (12, 15), (18, 21), (24, 27))

EMBRYOID_SOURCES = {
    "cells": "Moon et al. 2019, Visualizing structure and transitions in high-dimensional "
    "biological data, Nature Biotechnology 37, 1482-1492. doi:10.1038/s41587-019-0336-3",
    "principal_components": "Tong et al. 2020, TrajectoryNet: a dynamic optimal transport network "
    "for modeling cellular dynamics, ICML. arXiv:2002.04461",
    "files": "take-koshizuka/nlsb at dc44f1f (MIT licence, Copyright (c) 2022 Takeshi Koshizuka)",
}


def embryoid() -> AnnData:
    """Load 2,750 human embryoid-body cells sampled in five windows over 27 days.

    A subset, 550 cells per window, of the 16,819 cells of Moon et al. (2019), in the 100 principal
    components of TrajectoryNet. Cells were pooled over windows of three days, so a cell's day is
    the middle of its window. The set is too small for its Wasserstein distances to be compared
    with published ones, which use all cells.

    Returns
    -------
    AnnData
        Cells without expression, shape (2750, 0), with

        - ``obs["day"]``: middle of the window in days, float (1.5, 7.5, 13.5, 19.5, 25.5);
        - ``obs["stage"]``: ordered categorical, ``"day 0-3"`` to ``"day 24-27"``;
        - ``obs["orig_index"]``: row of the cell in the original file of 16,819 cells;
        - ``obsm["X_pca"]``: principal components, shape (2750, 100), float32. They were not
          centred, so the first holds mostly what all cells have in common (mean 52, variance 7);
        - ``obsm["rna_velocity_pca"]``: RNA velocity in the same components, in no particular
          time unit. The name keeps clear of ``velocity_*``, where fitted velocities go;
        - ``uns["sources"]``: what to cite, and the licence.

    Examples
    --------
    >>> from cellflow import datasets
    >>> adata = datasets.embryoid()
    >>> adata.obsm["X_pca"].shape
    (2750, 100)
    >>> sorted(float(day) for day in set(adata.obs["day"]))
    [1.5, 7.5, 13.5, 19.5, 25.5]
    """
    import pandas as pd
    from anndata import AnnData

    stored = bundled("embryoid.npz")
    window, origin = stored["t"], stored["orig_index"]
    middles = np.array([(first + last) / 2 for first, last in EMBRYOID_WINDOWS])
    names = [f"day {first}-{last}" for first, last in EMBRYOID_WINDOWS]
    obs = pd.DataFrame(
        {
            "day": middles[window],
            "stage": pd.Categorical.from_codes(window, names, ordered=True),
            "orig_index": origin,
        },
        index=[f"EB-{row}" for row in origin],
    )
    obsm = {"X_pca": stored["X"], "rna_velocity_pca": stored["velocity"]}
    return AnnData(obs=obs, obsm=obsm, uns={"sources": dict(EMBRYOID_SOURCES)})
