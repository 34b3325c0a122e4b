"""The bundled set is what it says."""

from __future__ import annotations

import hashlib
from importlib import resources

import anndata
import numpy as np

from cellflow import datasets

BUNDLED = resources.files("cellflow.datasets") / "embryoid.npz"


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


def test_embryoid_file_is_the_one_that_the_sources_name():
    digest = hashlib.sha256(BUNDLED.read_bytes()).hexdigest()
    sources = (resources.files("cellflow.datasets") / "SOURCES.md").read_text(encoding="utf-8")
    assert digest in sources
    assert "MIT License" in sources


def test_embryoid_goes_through_scanpy_and_disk(tmp_path):
    import scanpy as sc

    adata = datasets.embryoid()[::25].copy()
    sc.pp.neighbors(adata, use_rep="X_pca", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (110, 110)
    adata.write_h5ad(tmp_path / "eb.h5ad")
    back = anndata.read_h5ad(tmp_path / "eb.h5ad")
    np.testing.assert_array_equal(back.obsm["X_pca"], adata.obsm["X_pca"])
    assert back.obs["stage"].cat.ordered
