"""Prior growth rates from scores of proliferation and apoptosis."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc

import cellflow as cf


def logistic(score, *, centre, width, low=0.3, high=1.7):
    """Waddington-OT's, as it is written there."""
    return low + (high - low) / (1 + np.exp(-4 / width * (np.asarray(score) - centre)))


def scored(n: int = 30) -> anndata.AnnData:
    """Every other gene is 1 in every cell: the score of a set is its mean less 1, for any draw."""
    rng = np.random.default_rng(1)
    x = np.ones((n, 400), dtype=np.float32)
    x[:, :4] += rng.normal(0, 0.5, (n, 4)).astype(np.float32)
    out = anndata.AnnData(X=x)
    out.var_names = ["Mki67", "Top2a", "Bax", "Casp3", *(f"g{k}" for k in range(396))]
    out.layers["counts"] = 3 * x
    out.obs["cycling"] = rng.normal(0, 0.4, n)
    out.obs["dying"] = rng.normal(0, 0.2, n)
    return out


def test_rates_from_columns_are_those_of_waddington_ot() -> None:
    adata = scored()
    cf.pp.growth_rates(adata, proliferation="cycling", apoptosis="dying")
    birth = logistic(adata.obs["cycling"], centre=0.25, width=0.5)
    death = logistic(adata.obs["dying"], centre=0.1, width=0.2)
    np.testing.assert_allclose(adata.obs["growth_rate"], birth - death, rtol=1e-12, atol=1e-15)
    cf.pp.growth_rates(adata, proliferation="cycling", key_added="alone")
    np.testing.assert_allclose(adata.obs["alone"], birth - 0.3, rtol=1e-12, atol=1e-15)
    curve = cf.pp.RateCurve(centre=0.0, width=1.0, low=0.0, high=2.0)
    cf.pp.growth_rates(adata, proliferation="cycling", birth=curve, key_added="own", unit="hour")
    own = logistic(adata.obs["cycling"], centre=0.0, width=1.0, low=0.0, high=2.0)
    np.testing.assert_allclose(adata.obs["own"], (own - 0.3) / 24, rtol=1e-12, atol=1e-15)
    assert adata.uns["own"]["unit"] == "per hour"
    far = cf.pp.RateCurve(centre=0.0, width=1e-3)(np.array([-1e9, 1e9]))
    np.testing.assert_array_equal(far, [0.3, 1.7])  # without overflow


@pytest.mark.parametrize("layer", [None, "counts"])
def test_rates_from_genes(layer, tmp_path) -> None:
    adata = scored()
    kept = adata.X.copy()
    genes = {"proliferation": ["Mki67", "Top2a"], "apoptosis": ["Bax", "Casp3"]}
    before = np.random.get_state()[1].copy()
    cf.pp.growth_rates(adata, **genes, layer=layer, rng=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    scale = 1.0 if layer is None else 3.0
    score = {k: scale * (kept[:, [2 * i, 2 * i + 1]].mean(1) - 1) for i, k in enumerate(genes)}
    for name in genes:
        np.testing.assert_allclose(adata.obs[f"growth_rate_{name}"], score[name], atol=1e-6)
    rate = logistic(score["proliferation"], centre=0.25, width=0.5)
    rate -= logistic(score["apoptosis"], centre=0.1, width=0.2)
    np.testing.assert_allclose(adata.obs["growth_rate"], rate, atol=1e-5)
    np.testing.assert_array_equal(adata.X, kept)
    adata.write_h5ad(tmp_path / "cells.h5ad")


def test_the_random_genes_are_decided_by_the_seed_alone() -> None:
    rng = np.random.default_rng(2)
    adata = anndata.AnnData(X=rng.poisson(1.0, (20, 3000)).astype(np.float32))
    adata.var_names = [f"g{k}" for k in range(3000)]
    out = {}
    for key, seed in (("a", 0), ("b", 0), ("c", 1)):
        np.random.random()  # whatever was drawn before
        cf.pp.growth_rates(adata, proliferation=["g1", "g2", "g3"], key_added=key, rng=seed)
        out[key] = adata.obs[f"{key}_proliferation"].to_numpy()
    np.testing.assert_array_equal(out["a"], out["b"])
    assert np.abs(out["a"] - out["c"]).max() > 1e-6
    sc.tl.score_genes(adata, ["g1", "g2", "g3"], score_name="scanpy")
    assert np.corrcoef(out["a"], adata.obs["scanpy"])[0, 1] > 0.95


def test_missing_genes_are_named_and_nothing_is_written() -> None:
    adata = scored()
    columns = list(adata.obs)
    with pytest.raises(ValueError, match="no genes 'Ccnb1' in the data.*missing='drop'"):
        cf.pp.growth_rates(adata, proliferation=["Mki67", "Ccnb1"])
    with pytest.raises(ValueError, match="'BAX'.*The data have 'Bax': names differ between human"):
        cf.pp.growth_rates(adata, proliferation=["Mki67"], apoptosis=["BAX"])
    assert list(adata.obs) == columns and not adata.uns
    cf.pp.growth_rates(adata, proliferation=["Mki67", "Ccnb1"], missing="drop")
    assert adata.uns["growth_rate"]["proliferation"] == ["Mki67"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"proliferation": "cycle"}, ValueError, "'cycle', expected one of.*Did you mean"),
        ({"proliferation": "Mki67"}, ValueError, r"a gene, expected a column.*\['Mki67'\]"),
        ({"proliferation": []}, ValueError, "got no genes"),
        ({"proliferation": ["a"], "missing": "drop"}, ValueError, "no genes 'a' in the data"),
        ({"proliferation": ["Bax"], "layer": "raw"}, ValueError, "`layer`: got 'raw'"),
        ({"proliferation": "cycling", "unit": "days"}, ValueError, "Did you mean 'day'"),
        ({"proliferation": "cycling", "missing": "no"}, ValueError, "`missing`: got 'no'"),
        ({"proliferation": "cycling", "birth": 2.0}, TypeError, "`birth`: got float"),
        ({"proliferation": "name"}, TypeError, "expected numbers"),
        ({"proliferation": "holes"}, ValueError, "2 cells without a score .first: '0'"),
    ],
)
def test_growth_rates_names_bad_arguments(options, error, message) -> None:
    adata = scored()
    adata.obs["name"] = "a"
    adata.obs["holes"] = [np.nan, np.inf] + [0.0] * 28
    columns = list(adata.obs)
    with pytest.raises(error, match=message):
        cf.pp.growth_rates(adata, **options)
    assert list(adata.obs) == columns


def test_rate_curve_refuses_bad_bounds() -> None:
    with pytest.raises(ValueError, match="`width`: got 0"):
        cf.pp.RateCurve(centre=0.0, width=0)
    with pytest.raises(ValueError, match="`high`: got 1"):
        cf.pp.RateCurve(centre=0.0, width=1.0, low=2.0, high=1.0)
