"""Cells with expression, kept in memory or on disk."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import read_elem, sparse_dataset

#: Where expression may be, and whether it is sparse there.
PLACES = {
    "memory": False,
    "memory csr": True,
    "memory csc": True,
    "h5ad": False,
    "h5ad csr": True,
    "zarr": False,
    "zarr csr": True,
    "lazy zarr": False,
    "lazy zarr csr": True,
    "lazy h5ad csr": True,
}


def counts(n: int = 90, g: int = 12, dtype=np.float64) -> np.ndarray:
    """Log counts of genes that three hidden programmes drive; the last gene is never seen."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(size=(n, 3)) @ rng.normal(size=(3, g)) * 0.6)
    x = np.log1p(rng.poisson(rate)).astype(dtype)
    x[:, -1] = 0
    return x


def stored(x: np.ndarray, place: str, folder) -> anndata.AnnData:
    """The same cells, kept as `place` says."""
    n = len(x)
    obs = pd.DataFrame({"day": np.arange(n) % 3}, index=[f"c{k}" for k in range(n)])
    var = pd.DataFrame({"chosen": np.arange(x.shape[1]) % 4 > 0})
    var.index = var.index.astype(str)
    kind = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}.get(place.split()[-1], np.asarray)
    adata = anndata.AnnData(kind(x), obs=obs, var=var)
    if place.startswith("memory"):
        return adata
    path = folder / f"cells.{'h5ad' if 'h5ad' in place else 'zarr'}"
    if "h5ad" in place:
        adata.write_h5ad(path)
    else:
        pytest.importorskip("zarr")
        with warnings.catch_warnings():  # anndata announces another default format of zarr
            warnings.simplefilter("ignore")
            adata.write_zarr(path)
    if place.startswith("lazy"):
        return lazily(path)
    if "h5ad" in place:
        return anndata.read_h5ad(path, backed="r")
    import zarr

    store = zarr.open(path, mode="r")
    values = sparse_dataset(store["X"]) if PLACES[place] else store["X"]
    return anndata.AnnData(values, obs=read_elem(store["obs"]), var=read_elem(store["var"]))


def lazily(path) -> anndata.AnnData:
    pytest.importorskip("dask.array")
    pytest.importorskip("xarray")
    read = getattr(anndata.experimental, "read_lazy", None)
    if read is None:
        pytest.skip("this anndata does not read lazily")
    return read(path)
