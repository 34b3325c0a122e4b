"""The influence of genes on each other at the AnnData door."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow import tl
from cellflow.answers import influence
from cellflow.networks import MLPConfig

GENES, EACH = 6, 30
OPTIONS = {"time_key": "day", "label_key": "kind", "steps": 30, "progress": False}
NET = MLPConfig(16, 2)


@pytest.fixture(scope="module")
def made() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    day = np.repeat([0.0, 2.0], EACH)
    obs = pd.DataFrame({"day": day, "kind": np.tile(["a", "b", "b"], 2 * EACH // 3)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"g{k}" for k in range(GENES)])
    x = rng.normal(2, 1, (len(day), GENES)) + day[:, None]
    out = anndata.AnnData(x, obs, var)
    cf.pp.pca(out, n_components=3)
    return out


@pytest.fixture
def adata(made) -> anndata.AnnData:
    return made.copy()


@pytest.fixture(scope="module")
def fit(made) -> cf.Fit:
    return tl.fit(made.copy(), method=cf.OTCFM(net=NET), **OPTIONS)


def test_a_group_at_a_time_is_averaged_in_genes(adata, fit, tmp_path) -> None:
    found = tl.influence(adata, fit, ["g4", "g1"], group="b", times=[2.0])
    cells = ((adata.obs["kind"] == "b") & (adata.obs["day"] == 2)).to_numpy()
    components = torch.from_numpy(np.array(adata.varm["PCs"], dtype=float))
    whole = influence(fit, 2.0, adata.obsm["X_pca"][cells]).jacobian
    expected = (components @ whole @ components.T).numpy()
    np.testing.assert_allclose(found, expected[np.ix_([4, 1], [4, 1])], rtol=1e-4, atol=1e-6)
    assert found.index.tolist() == found.columns.tolist() == ["g4", "g1"]
    assert adata.uns["influence_params"] == {"n": cells.sum(), "field": "velocity", "group": "b"}
    assert (adata.uns["influence_strength"] >= found.abs() - 1e-12).all(None)
    assert "influence_std" not in adata.uns
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["influence"]
    np.testing.assert_array_equal(again, found)


def test_fits_to_expression_give_their_own_genes(adata) -> None:
    """The components of a fit to X are its own: they need no loadings."""
    whole = tl.fit(adata, method=cf.OTCFM(net=NET), use_rep="X", n_dims=3, **OPTIONS)
    found = tl.influence(adata, whole)
    direct = influence(whole, adata.obs["day"].to_numpy(), np.asarray(adata.X)).jacobian
    np.testing.assert_allclose(found, direct, rtol=1e-4, atol=1e-6)
    assert np.linalg.matrix_rank(found, tol=1e-4) <= 3


def test_the_drift_is_taken_where_there_is_one_and_members_disagree(adata) -> None:
    several = tl.fit(adata, method=cf.SF2M(net=NET), members=2, workers=1, **OPTIONS)
    drift = tl.influence(adata, several)
    assert adata.uns["influence_params"]["field"] == "drift"
    assert (adata.uns["influence_std"] > 0).all(None)
    assert not np.allclose(drift, tl.influence(adata, several, drift=False))
    tl.influence(adata, several.members[0])
    assert "influence_std" not in adata.uns


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"genes": ["g9"]}, "`genes`: got 'g9'"),
        ({"group": "c"}, "`group`: got 'c', expected one of 'a', 'b'"),
        ({"label_key": "sort", "group": "a"}, "`label_key`: got 'sort'"),
        ({"group": "a", "times": [1.0]}, r"`group`: got no cell of group 'a' at times \[1.0\]"),
        ({"drift": True}, "`drift`: got 'otcfm', expected a method that learns a score"),
    ],
)
def test_what_cannot_be_answered_is_said_and_nothing_is_written(adata, fit, options, match) -> None:
    with pytest.raises((ValueError, KeyError), match=match):
        tl.influence(adata, fit, **options)
    assert not any(key.startswith("influence") for key in adata.uns)


def test_thousands_of_genes_are_asked_for_by_name(adata, fit, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules["cellflow.tl.influence"], "MANY", 5)
    with pytest.raises(ValueError, match="`genes`: got None, and 6 genes, expected at most 5"):
        tl.influence(adata, fit)
    assert tl.influence(adata, fit, "g0").shape == (1, 1)
