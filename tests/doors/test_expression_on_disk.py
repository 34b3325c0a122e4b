"""Fits to expression on disk are those to the same expression in memory, all the way through."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import cellflow as cf
from cellflow import OTCFM
from cellflow.batches import Batching
from cellflow.cli.files import read_cells
from cellflow.networks import MLPConfig
from cellflow.pp.access import on_disk
from cellflow.training.trainer import Training
from expression import counts, stored

METHOD = OTCFM(
    net=MLPConfig(width=16, depth=2), batching=Batching(32, 32), training=Training(check_every=20)
)
#: In memory first: the others are compared with it.
PLACES = ["memory", "h5ad", "h5ad csr", "zarr csr", "lazy zarr csr"]


def cells(place: str, folder) -> anndata.AnnData:
    """Ninety cells of three days, which differ; float64, so that only rounding is left."""
    x = counts(90, 12)
    x[1::3, :4] += 1
    x[2::3, 2:6] += 2
    return stored(x, place, folder)


def fit(adata: anndata.AnnData, **options):
    options = {"method": METHOD, "steps": 30, "progress": False} | options
    days = {0: 0.0, 1: 1.0, 2: 3.0}
    return cf.tl.fit(adata, time_key="day", use_rep="X", n_dims=3, time_map=days, **options)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    adata = cells("memory", tmp_path_factory.mktemp("memory"))
    return adata, fit(adata, whiten=True)


@pytest.mark.parametrize("place", PLACES[1:])
def test_the_fit_is_that_of_expression_in_memory(place: str, reference, tmp_path) -> None:
    whole, expected = reference
    adata = cells(place, tmp_path)
    ours = fit(adata, whiten=True)
    prep, found = expected.preprocessing, ours.origin["components"]
    np.testing.assert_allclose(found.loadings, prep.loadings, atol=1e-9)
    x = torch.as_tensor(whole.X[:10])
    v = expected.velocity(0.5, x) @ prep.loadings
    # Thirty steps of training amplify the rounding of the components.
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(ours.velocity(0.5, found.apply(x)), v, **close)

    a, b = (cf.tl.interpolate(f, time=2.0) for f in (ours, expected))
    np.testing.assert_allclose(a.X, b.X, **close)
    assert list(a.var_names) == list(b.var_names)
    x = a.obsm["X_pca"] @ a.varm["PCs"].T + found.mean.numpy()
    np.testing.assert_allclose(np.maximum(x, 0), a.X)
    assert a.uns["interpolation"]["cut"]["entries"] == (x < 0).mean() > 0

    t, s = (cf.tl.simulate(w, f, times=[0, 1, 2]) for w, f in ((adata, ours), (whole, expected)))
    # In memory, a start is the cell itself; its components leave something out.
    np.testing.assert_allclose(cf.tl.expression(ours, t.x, floor=False)[1:], s.x[1:], **close)
    some = cf.tl.expression(ours, t.x, genes=["5", "0"])
    np.testing.assert_allclose(some[1:], s.x[1:, :, [5, 0]].clamp(min=0), **close)
    assert t.x.shape == (3, 30, 3)


@pytest.mark.parametrize("place", ["h5ad csr", "lazy zarr csr"])
def test_velocities_are_those_of_expression_in_memory(place: str, reference, tmp_path) -> None:
    whole, expected = reference
    adata = cells(place, tmp_path)
    ours = fit(adata, whiten=True)
    cf.tl.velocity(adata, ours)
    cf.tl.velocity(whole, expected)
    v = whole.obsm["velocity_X"] @ ours.origin["components"].loadings.numpy()
    np.testing.assert_allclose(np.asarray(adata.obsm["velocity_X"]), v, rtol=1e-6, atol=1e-6)


def test_holdout_tables_are_the_same(tmp_path) -> None:
    tables = []
    for place in ("memory", "h5ad csr"):
        table = cf.tl.holdout(
            cells(place, tmp_path),
            time_key="day",
            use_rep="X",
            n_dims=3,
            method=METHOD,
            steps=20,
            seeds=1,
            progress=False,
            workers=1,
        )
        tables.append([row.value for row in table.rows])
    np.testing.assert_allclose(*tables, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`preprocess_on`: got 'train' for.*adata\.to_memory"):
        cf.tl.holdout(
            cells("h5ad csr", tmp_path),
            time_key="day",
            use_rep="X",
            n_dims=3,
            preprocess_on="train",
            progress=False,
        )


def test_components_are_saved_and_loaded(tmp_path) -> None:
    ours = fit(cells("h5ad csr", tmp_path))
    loaded = cf.load(ours.save(tmp_path / "fit"))
    a, b = (cf.tl.interpolate(f, time=2.0) for f in (ours, loaded))
    np.testing.assert_array_equal(a.X, b.X)
    assert loaded.origin.keys() == ours.origin.keys()


def test_a_view_of_a_backed_anndata_is_its_copy(tmp_path) -> None:
    adata = cells("h5ad csr", tmp_path)
    genes = np.arange(12) % 5 > 0
    view, copy = adata[:, genes], adata.to_memory()[:, genes].copy()
    a, b = (cf.tl.interpolate(fit(cells_), time=2.0) for cells_ in (view, copy))
    np.testing.assert_allclose(a.X, b.X, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["memory", "memory csr", "memory csc"])
def test_the_command_line_leaves_expression_on_disk(kind: str, tmp_path) -> None:
    """Unless it is stored by genes."""
    adata = cells(kind, tmp_path)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = read_cells(tmp_path / "cells.h5ad", "X")
    assert on_disk(read.X) == ("csc" not in kind)
    a, b = (cf.tl.interpolate(fit(c), time=2.0) for c in (read, adata))
    np.testing.assert_allclose(a.X, b.X, rtol=1e-6, atol=1e-6)


def test_velocities_in_blocks_are_the_same(monkeypatch, tmp_path) -> None:
    adata = cells("h5ad csr", tmp_path)
    ours = fit(adata)
    cf.tl.velocity(adata, ours)
    whole = adata.obsm["velocity_X"].copy()
    monkeypatch.setattr(sys.modules["cellflow.tl.velocity"], "_BLOCK", 7)
    cf.tl.velocity(adata, ours)
    np.testing.assert_allclose(adata.obsm["velocity_X"], whole, rtol=1e-12, atol=1e-12)


def test_bad_arguments(tmp_path) -> None:
    adata = cells("h5ad csr", tmp_path)
    ours = fit(adata, steps=2)
    adata.obsm["X_umap"] = np.zeros((90, 2))
    with pytest.raises(ValueError, match=r"`basis`: got 'umap' for .*cellflow\.pp\.pca"):
        cf.tl.velocity(adata, ours, basis="umap")
    with pytest.raises(ValueError, match="`X`: got 11 genes, which lack .*, expected the 12 genes"):
        cf.tl.velocity(adata[:, :11], ours)
    with pytest.raises(ValueError, match=r"`states`: got shape \(2, 4\), expected \(\.\.\., 3\)"):
        cf.tl.expression(ours, np.zeros((2, 4)))
    np.testing.assert_array_equal(
        cf.tl.expression(ours, np.eye(3, dtype=int)), cf.tl.expression(ours, torch.eye(3))
    )
    with pytest.raises(ValueError, match="`genes`: got 'Sox2'"):
        cf.tl.expression(ours, np.zeros((2, 3)), genes=["Sox2"])
    with pytest.raises(ValueError, match=r"`states`: got 0.0 GiB for 2 states of 12 genes.*fewer"):
        cf.tl.expression(ours, np.zeros((2, 3)), memory=100)
    pca = pd.DataFrame({"day": [0, 1] * 10}, index=[str(k) for k in range(20)])
    other = anndata.AnnData(obs=pca, obsm={"X_pca": np.eye(20)})
    states = cf.tl.fit(other, time_key="day", method=METHOD, steps=2, progress=False)
    with pytest.raises(
        ValueError, match=r"`fit`: got a fit of use_rep='X_pca'.*varm\['PCs'\] has no"
    ):
        cf.tl.expression(states, np.eye(20))


def test_sparse_expression_in_memory_stays_as_it_was(reference) -> None:
    whole, expected = reference
    sparse = whole.copy()
    sparse.X = sp.csr_matrix(sparse.X)
    a, b = (cf.tl.interpolate(f, time=2.0) for f in (fit(sparse, whiten=True), expected))
    np.testing.assert_array_equal(a.X, b.X)
