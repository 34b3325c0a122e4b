"""Components of expression that is never read whole, wherever it is stored."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from cellflow import pp
from cellflow.pp.access import on_disk, row_chunks
from cellflow.pp.components import components
from cellflow.preprocessing import fit_preprocessing
from expression import PLACES, counts, stored


def expected(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, loadings and variances by scikit-learn."""
    model = PCA(k, svd_solver="full").fit(x)
    variances = model.explained_variance_ * (len(x) - 1) / len(x)
    return model.transform(x), model.components_.T, variances


@pytest.mark.parametrize("place", PLACES)
def test_components_are_those_of_scikit_learn(place: str, tmp_path) -> None:
    x = counts()
    adata = stored(x, place, tmp_path)
    assert on_disk(adata.X) == (not place.startswith("memory"))
    pp.pca(adata, n_components=4, memory=2000)  # twenty dense rows at a time
    states, loadings, variances = expected(x, 4)
    ours = np.asarray(adata.varm["PCs"])
    sign = np.sign((ours * loadings).sum(0))
    np.testing.assert_allclose(ours * sign, loadings, atol=1e-9)
    np.testing.assert_allclose(np.asarray(adata.obsm["X_pca"]) * sign, states, atol=1e-9)
    np.testing.assert_allclose(adata.uns["pca"]["variance"], variances, rtol=1e-10)
    ratio = variances / x.var(0).sum()
    np.testing.assert_allclose(adata.uns["pca"]["variance_ratio"], ratio, rtol=1e-10)
    np.testing.assert_allclose(adata.uns["pca"]["mean"], x.mean(0), atol=1e-12)


@pytest.mark.parametrize("place", ["h5ad", "h5ad csr"])
def test_chosen_genes_alone_have_loadings(place: str, tmp_path) -> None:
    x, adata = counts(), stored(counts(), place, tmp_path)
    pp.pca(adata, n_components=3, genes="chosen", memory=2000)
    chosen = adata.var["chosen"].to_numpy()
    states, _, _ = expected(x[:, chosen], 3)
    np.testing.assert_allclose(np.abs(adata.obsm["X_pca"]), np.abs(states), atol=1e-9)
    assert (adata.varm["PCs"][~chosen] == 0).all()


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
def test_many_genes_take_another_solver_with_the_same_answer(make) -> None:
    """Beyond 500 genes few of many eigenvectors are found by Lanczos' iteration."""
    x = counts(n=700, g=600)
    found, variances, _ = components(make(x), 3)
    _, loadings, exact = expected(x, 3)
    np.testing.assert_allclose(variances, exact, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.loadings.numpy()), np.abs(loadings), atol=1e-7)


def test_entries_out_of_order_and_in_parts_are_added_up() -> None:
    """A sparse matrix may say 1 + 2 where another says 3, and name its columns in any order."""
    x = counts()
    whole = sp.csr_matrix(x)
    parts = sp.csr_matrix(
        (
            np.repeat(whole.data, 2) * np.tile([0.25, 0.75], whole.nnz),
            np.repeat(whole.indices, 2),
            2 * whole.indptr,
        ),
        shape=x.shape,
    )
    for row in range(len(x)):
        part = slice(*parts.indptr[row : row + 2])
        parts.indices[part] = parts.indices[part][::-1]
        parts.data[part] = parts.data[part][::-1]
    np.testing.assert_allclose(components(parts, 3)[1], expected(x, 3)[2], rtol=1e-10)


def test_small_variances_beside_large_means_survive() -> None:
    x = counts() * 1e-3 + 1e4
    found, variances, _ = components(x, 3, memory=2000)
    np.testing.assert_allclose(variances, expected(x, 3)[2], rtol=1e-7)
    assert_close(found.mean, torch.as_tensor(x.mean(0)))


@pytest.mark.parametrize("place", ["h5ad csr", "zarr", "lazy zarr csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_course_in_components_is_that_of_whole_expression(place, dtype, tmp_path) -> None:
    """Over the cells that have a time, with the same signs."""
    x = counts(dtype=dtype)
    adata = stored(x, place, tmp_path)
    days = {0: 0.0, 1: 1.0, 2: 3.0}
    course, index = pp.course(adata, time_key="day", use_rep="X", n_components=4, time_map=days)
    whole, _ = pp.course(stored(x, "memory", tmp_path), time_key="day", use_rep="X", time_map=days)
    prep = fit_preprocessing(whole.x.double(), n_components=4)
    assert course.x.dtype == torch.from_numpy(x).dtype
    for a, b in zip(course.snapshots, whole.snapshots, strict=True):
        assert_close(a.x, prep.apply(b.x.double()).to(a.x), atol=2e-5, rtol=1e-5)
    assert_close(index.components.loadings, prep.loadings)


def test_cells_without_a_time_do_not_count(tmp_path) -> None:
    x = counts()
    adata = stored(x, "h5ad", tmp_path)
    labels = adata.obs["day"].astype(object)
    labels.iloc[::5] = None
    adata.obs["label"] = labels
    options = {"time_key": "label", "use_rep": "X", "missing": "drop"}
    _, index = pp.course(adata, n_components=4, **options)
    kept = x[adata.obs["label"].notna().to_numpy()]
    assert_close(index.components.mean, torch.as_tensor(kept.mean(0)))


@pytest.mark.parametrize("place", PLACES)
def test_chunks_are_all_rows_in_order_within_the_budget(place: str, tmp_path) -> None:
    x = counts()
    adata = stored(x, place, tmp_path)
    seen, values = [], []
    for rows, block in row_chunks(adata.X, memory=2000, name="X"):
        seen.append(range(rows.start, rows.stop))
        values.append(block if isinstance(block, np.ndarray) else block.toarray())
    assert [k for part in seen for k in part] == list(range(len(x)))
    np.testing.assert_array_equal(np.vstack(values), x)
    assert 4 <= len(seen) <= len(x) / 8


def test_expression_stored_by_genes_says_what_to_do(tmp_path) -> None:
    stored(counts(), "memory csc", tmp_path).write_h5ad(tmp_path / "genes.h5ad")
    adata = anndata.read_h5ad(tmp_path / "genes.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"`X`: got .*\(CSC\).*adata\.to_memory\(\)"):
        pp.pca(adata, n_components=2)


@pytest.mark.parametrize("place", ["h5ad", "h5ad csr"])
def test_values_that_are_not_finite_are_found(place: str, tmp_path) -> None:
    x = counts()
    x[33, 3] = np.nan
    with pytest.raises(ValueError, match="`X`: got NaN or infinite values in rows"):
        pp.pca(stored(x, place, tmp_path), n_components=2, memory=2000)


def test_bad_arguments(tmp_path, monkeypatch) -> None:
    adata = stored(counts(), "h5ad", tmp_path)
    with pytest.raises(ValueError, match="`n_components`: got 13, expected at most 12"):
        pp.pca(adata, n_components=13)
    with pytest.raises(ValueError, match="`genes`: got 'choose'.*Did you mean 'chosen'"):
        pp.pca(adata, genes="choose")
    with pytest.raises(ValueError, match="`n_components`: got n_dims besides"):
        pp.course(adata, time_key="day", use_rep="X", n_dims=3, n_components=3)
    with pytest.raises(TypeError, match="`adata`: got ndarray"):
        pp.pca(counts())
    monkeypatch.setattr("cellflow.pp.components.MAX_GENES", 11)
    with pytest.raises(ValueError, match=r"`X`: got 12 genes, expected at most 11.*genes="):
        pp.pca(adata, n_components=2)
    pp.pca(adata, n_components=2, genes="chosen")


def test_one_component_of_two_dimensions_is_that_of_the_larger_variance() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 5.0]
    adata = anndata.AnnData(np.zeros((60, 1), np.float32), obsm={"X_pca": x})
    adata.obs["day"] = np.repeat([0, 1], 30)
    course, _ = pp.course(adata, time_key="day", n_components=1)
    prep = fit_preprocessing(torch.from_numpy(x), n_components=1)
    assert_close(course.x, prep.apply(torch.from_numpy(x)))
