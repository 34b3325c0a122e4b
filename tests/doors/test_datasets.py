"""The sets are what they say; files of papers are verified."""

from __future__ import annotations

import hashlib
import re
import socket
from importlib import resources

import anndata
import numpy as np
import pytest

from cellflow import datasets

FOLDER = resources.files("cellflow.datasets")


def test_embryoid_holds_550_cells_of_each_window():
    adata = datasets.embryoid()
    assert adata.shape == (2750, 0)
    assert adata.obs["day"].dtype == np.float64
    assert adata.obs["day"].value_counts().to_dict() == {
        1.5: 550,
        7.5: 550,
        13.5: 550,
        19.5: 550,
        25.5: 550,
    }
    assert adata.obs_names.is_unique
    for key in ("X_pca", "rna_velocity_pca"):
        assert adata.obsm[key].shape == (2750, 100)
        assert adata.obsm[key].dtype == np.float32
        assert np.isfinite(adata.obsm[key]).all()


def test_embryoid_stage_is_ordered_and_agrees_with_the_day():
    obs = datasets.embryoid().obs
    assert obs["stage"].cat.ordered
    assert list(obs["stage"].cat.categories) == [
        "day 0-3",
        "day 6-9",
        "day 12-15",
        "day 18-21",
        "day 24-27",
    ]
    np.testing.assert_array_equal(obs["day"], 1.5 + 6 * obs["stage"].cat.codes)


def test_embryoid_is_a_fresh_object_each_time():
    first = datasets.embryoid()
    first.obsm["X_pca"][:] = 0
    first.uns["sources"]["cells"] = ""
    second = datasets.embryoid()
    assert second.obsm["X_pca"].any()
    assert "Moon" in second.uns["sources"]["cells"]


@pytest.mark.parametrize("name", ["embryoid", "reprogramming", "larry"])
def test_bundled_file_is_the_one_that_the_sources_name(name):
    digest = hashlib.sha256((FOLDER / f"{name}.npz").read_bytes()).hexdigest()
    sources = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    entry = sources.split(f"## {name}.npz")[1].split("\n## ")[0]
    assert digest in entry
    assert re.search("MIT|BSD", entry)


def test_reprogramming_has_normalised_genes_types_and_days():
    adata = datasets.reprogramming()
    assert adata.shape == (1000, 1479)
    assert adata.obs["day"].value_counts().to_dict() == {10.0: 318, 10.5: 316, 11.0: 366}
    total = np.expm1(adata.X.toarray().astype(float)).sum(1)
    np.testing.assert_allclose(total, 1e4, rtol=1e-4)
    assert adata.obs["cell_type"].value_counts()["Stromal"] == 424
    assert adata.var_names.is_unique
    assert {"Nanog", "Pou5f1"} & set(adata.var_names)


def test_larry_has_clones_across_days():
    adata = datasets.larry()
    assert adata.obs["day"].value_counts().to_dict() == {2.0: 34, 4.0: 316, 6.0: 431}
    days = adata.obs.groupby("clone", observed=True)["day"].agg(set)
    assert len(days) == 339
    assert sum({4.0, 6.0} <= of for of in days) == 113
    assert adata.obsm["X_pca"].shape == (781, 40)
    assert "undiff" in adata.obs["cell_type"].cat.categories


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("load", [datasets.embryoid_full, datasets.citeseq, datasets.multiome])
def test_without_a_network_the_address_and_the_folder_are_named(load, tmp_path, no_network):
    with pytest.raises(ConnectionError, match=r"https://.* by hand, as .*papers"):
        load(tmp_path / "papers")
    assert not any((tmp_path / "papers").glob("*"))


def test_another_file_of_that_name_is_refused_and_kept(tmp_path, no_network):
    (tmp_path / "eb_velocity_v5.npz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="sha256"):
        datasets.embryoid_full(tmp_path)
    assert (tmp_path / "eb_velocity_v5.npz").read_bytes() == b"mine"


def test_embryoid_goes_through_scanpy_and_disk(tmp_path):
    import scanpy as sc

    adata = datasets.embryoid()[::25].copy()
    sc.pp.neighbors(adata, use_rep="X_pca", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (110, 110)
    adata.write_h5ad(tmp_path / "eb.h5ad")
    back = anndata.read_h5ad(tmp_path / "eb.h5ad")
    np.testing.assert_array_equal(back.obsm["X_pca"], adata.obsm["X_pca"])
    assert back.obs["stage"].cat.ordered
