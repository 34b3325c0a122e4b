"""Published files that users bring are verified before they are read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import resources

import anndata
import numpy as np
import pandas as pd
import pytest

from accuracy import published
from cellflow import datasets

BUNDLED = resources.files("cellflow.datasets") / "embryoid.npz"


def test_bundled_file_is_known_as_a_subset_of_eb():
    adata, note = published.load_paper_dataset("eb", BUNDLED)
    reference = datasets.embryoid()
    np.testing.assert_array_equal(adata.obsm["X_pca"], reference.obsm["X_pca"])
    np.testing.assert_array_equal(adata.obs["day"], reference.obs["day"])
    assert "2,750 of the paper's 16,819 cells" in note


@pytest.fixture
def known(monkeypatch):
    """Let a file written by a test stand in for a published one."""

    def pretend(file_name, path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files = tuple(
            replace(file, sha256=digest) if file.file_name == file_name else file
            for file in published.KNOWN_FILES
        )
        monkeypatch.setattr(published, "KNOWN_FILES", files)

    return pretend


@pytest.mark.parametrize("name", ["cite", "multi"])
def test_h5ad_of_the_paper_is_read_without_its_expression(tmp_path, known, name):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    days = pd.Categorical([2, 2, 7, 3, 4, 4])
    adata = anndata.AnnData(
        np.ones((6, 3), np.float32),
        obs=pd.DataFrame({"day": days}, index=list("abcdef")),
        obsm={"X_pca": x},
    )
    path = tmp_path / "renamed.h5ad"
    adata.write_h5ad(path)
    file_name = {"cite": "op_cite_inputs_0.h5ad", "multi": "op_train_multi_targets_0.h5ad"}[name]
    known(file_name, path)
    loaded, note = published.load_paper_dataset(name, path)
    np.testing.assert_array_equal(loaded.obsm["X_pca"], x)
    assert list(loaded.obs["day"]) == [2.0, 2.0, 7.0, 3.0, 4.0, 4.0]
    assert loaded.n_vars == 0
    assert note.startswith("The OT-CFM paper's own")


def test_npz_of_the_paper_gets_days_from_its_windows(tmp_path, known):
    path = tmp_path / "eb.npz"
    np.savez(path, pcs=np.eye(5), sample_labels=np.array([4, 0, 1, 2, 3]))
    known("eb_velocity_v5.npz", path)
    loaded, _ = published.load_paper_dataset("eb", path)
    assert list(loaded.obs["day"]) == [25.5, 1.5, 7.5, 13.5, 19.5]


def test_sibling_npz_of_cite_keeps_its_days(tmp_path, known):
    path = tmp_path / "cite.npz"
    np.savez(path, X=np.eye(4, dtype=np.float32), t=np.array([2, 3, 4, 7]))
    known("cite13176_pca100.npz", path)
    loaded, note = published.load_paper_dataset("cite", path)
    assert list(loaded.obs["day"]) == [2.0, 3.0, 4.0, 7.0]
    assert "sibling donor" in note


@pytest.mark.parametrize("kind", ["X t", "pcs sample_labels", "h5ad"])
@pytest.mark.parametrize("name", ["cite", "eb", "multi"])
def test_a_file_of_ones_own_is_read_and_said(tmp_path, name, kind):
    """Whichever the set: with its times as they are, and without its figures."""
    x, days = np.eye(4, dtype=np.float32), np.array([0, 2, 2, 7])
    path = tmp_path / "mine"
    if kind == "h5ad":
        obs = pd.DataFrame({"day": days}, index=list("abcd"))
        anndata.AnnData(obs=obs, obsm={"X_pca": x}).write_h5ad(path)
    else:
        cells, times = kind.split()
        with open(path, "wb") as stream:
            np.savez(stream, **{cells: x, times: days})
    loaded, note = published.load_paper_dataset(name, path)
    np.testing.assert_array_equal(loaded.obsm["X_pca"], x)
    np.testing.assert_array_equal(loaded.obs["day"], days)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert note.startswith(f"a file of your own, mine with sha256 {digest}, which is none of the")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not it", r"expected an \.npz or \.h5ad file"),
        ({"X": np.eye(2)}, "got arrays 'X', expected an array 't'"),
        ({"X": np.eye(2), "t": np.array(["a", "b"])}, "got times could not convert .*'a'"),
    ],
)
def test_unknown_content_says_what_was_expected(tmp_path, content, said):
    path = tmp_path / "op_cite_inputs_0.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises((ValueError, KeyError), match=said):
        published.load_paper_dataset("cite", path)


def test_file_of_another_set_is_recognised():
    with pytest.raises(ValueError, match=r"a16c28ef.*This file belongs to data set 'eb'"):
        published.load_paper_dataset("multi", BUNDLED)


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*hhny5ff7yj"):
        published.load_paper_dataset("multi", tmp_path / "nothing.h5ad")
    with pytest.raises(ValueError, match="Did you mean 'cite'"):
        published.load_paper_dataset("cites", tmp_path / "nothing.h5ad")
