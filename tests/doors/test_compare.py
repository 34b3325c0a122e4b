"""Comparison of conditions of an AnnData: what is read, and what is written."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import cellflow as cf
from cellflow import tl
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.training import Training

METHOD = cf.OTCFM(
    0.1,
    net=MLPConfig(16, 1),
    batching=Batching(32, 32, prefetch=False),
    training=Training(learning_rate=5e-3, validation=0.0),
)
N, GENES, D = 180, 12, 3


def cells(turn: float = 3.0) -> anndata.AnnData:
    """Cells of three days in genes and components; of those with the drug g1 rises, g2 falls."""
    rng = np.random.default_rng(0)
    day = rng.permutation(np.repeat([0, 1, 2], N // 3))
    obs = pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(N)])
    obs["drug"] = np.where(rng.random(N) < 0.45, "drug", "control")
    obs["animal"] = obs["drug"].str[0] + rng.integers(3, size=N).astype(str)
    obs["weight"] = rng.uniform(1, 3, N)
    x = rng.normal(size=(N, GENES)) + 5
    x[:, 0] += 2 * day
    x[:, 1] += turn * day * (obs["drug"] == "drug")
    x[:, 2] -= turn * day * (obs["drug"] == "drug")
    out = anndata.AnnData(x.astype(np.float32), obs=obs)
    out.var_names = [f"g{k}" for k in range(GENES)]
    sc.pp.pca(out, n_comps=D)
    return out


def compare(adata: anndata.AnnData, **options) -> pd.DataFrame:
    own = {"condition_key": "drug", "time_key": "day", "method": METHOD, "steps": 50}
    return tl.compare(adata, **(own | {"workers": 1, "progress": False} | options))


def test_times_and_cells_are_written_and_genes_found(tmp_path) -> None:
    adata = cells()
    table = compare(adata, n_permutations=19)
    assert table["p"].iloc[-1] == pytest.approx(0.05)
    assert table["time"].tolist()[:3] == [0.0, 1.0, 2.0]
    by_day = adata.obs.groupby("day")["flow_difference"].apply(lambda d: (d**2).mean() ** 0.5)
    np.testing.assert_allclose(by_day, table["difference"][:3], rtol=1e-5)
    genes = adata.uns["comparison_genes"]
    assert set(genes.index[:2]) == {"g1", "g2"}
    assert genes.loc["g1", "effect"] > 0.5 > -0.5 > genes.loc["g2", "effect"]
    assert (genes["p"][:2] == 0.05).all()
    assert (genes["effect"].abs() <= genes["difference"] + 1e-9).all()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(back.uns["comparison_genes"], genes, check_names=False)
    assert back.uns["comparison_fit"]["labelings"] == 20


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_dims": 2, "whiten": True},
        {"mass_key": "weight"},
        {"use_rep": "X"},
        {"use_rep": "X", "n_dims": 2, "whiten": True},
        {"time_map": {0: 0.0, 1: 2.0, 2: 5.0}, "unit": "hour"},
    ],
)
def test_differences_are_those_of_velocities_that_two_fits_write(options) -> None:
    """All keywords mean what they mean to a fit: of two, with the layer ``"velocity"``."""
    adata = cells()
    table = compare(adata, n_permutations=1, **options)
    own = {name: value for name, value in options.items() if name != "whiten"}
    rates, sizes = {}, {}
    course, _ = cf.pp.course(adata, time_key="day", **{**own, "n_dims": None, "mass_key": None})
    n_dims = options.get("n_dims")
    in_x = options.get("use_rep") == "X"
    x = course.x if in_x or n_dims is None else course.x[:, :n_dims]
    prep = None
    if options.get("whiten"):
        prep = cf.preprocessing.fit_preprocessing(
            x, n_components=n_dims if in_x else None, whiten=True
        )
    for name in ("control", "drug"):
        part = adata[adata.obs["drug"] == name].copy()
        read = {**own, "n_dims": None if in_x else n_dims}
        half, _ = cf.pp.course(part, time_key="day", **read)
        fit = METHOD.fit(half, preprocessing=prep, steps=50, generator=0, progress=False)
        states = adata.X if in_x else adata.obsm["X_pca"][:, : half.dim]
        times = adata.obs["day"].map(options.get("time_map", {0: 0.0, 1: 1.0, 2: 2.0}))
        v = fit.velocity(times.to_numpy(float), states).double().numpy()
        sizes[name] = v
        rates[name] = v if in_x else v @ adata.varm["PCs"][:, : half.dim].T
    weight = adata.obs["weight"] if "mass_key" in options else pd.Series(1.0, adata.obs_names)
    mine = adata.obs["drug"].to_numpy()
    own_mean = {
        name: np.stack(
            [
                np.average(rates[name][rows], axis=0, weights=weight[rows])
                for day in range(3)
                for rows in [(adata.obs["day"].to_numpy() == day) & (mine == name)]
            ]
        )
        for name in rates
    }
    weight = (weight / weight.groupby(adata.obs["day"]).transform("sum")).to_numpy()
    off = np.linalg.norm(sizes["drug"] - sizes["control"], axis=1)
    np.testing.assert_allclose(adata.obs["flow_difference"], off, rtol=2e-4, atol=1e-5)
    by_time = pd.Series(weight * off**2).groupby(adata.obs["day"].to_numpy()).sum() ** 0.5
    np.testing.assert_allclose(table["difference"][:3], by_time, rtol=2e-4)
    delta = own_mean["drug"] - own_mean["control"]
    genes = adata.uns["comparison_genes"].loc[adata.var_names]
    np.testing.assert_allclose(genes["effect"], delta.mean(0), rtol=1e-3, atol=1e-4)
    rms = (delta**2).mean(0) ** 0.5
    np.testing.assert_allclose(genes["difference"], rms, rtol=1e-3, atol=1e-4)
    assert adata.uns["comparison_fit"]["unit"] == options.get("unit", "day")


def test_replicates_are_read_and_cells_without_a_time_left_out() -> None:
    adata = cells(turn=0.0)
    adata.obs["day"] = adata.obs["day"].astype(float)
    adata.obs.loc["c3", "day"] = np.nan
    compare(adata, replicate_key="animal", missing="drop", steps=5)
    assert adata.uns["comparison_fit"]["labelings"] == 10
    assert np.flatnonzero(adata.obs["flow_difference"].isna()).tolist() == [3]
    adata.obs["dish"] = adata.obs["animal"].str[1]
    with pytest.raises(ValueError, match="'0' in 'control' and 'drug'"):
        compare(adata, replicate_key="dish", missing="drop")
    with pytest.raises(ValueError, match="`replicate_key`: got 'mouse'"):
        compare(adata, replicate_key="mouse", missing="drop")


def test_without_a_way_back_there_are_no_genes_and_none_of_before() -> None:
    adata = cells()
    compare(adata, steps=5, n_permutations=1)
    del adata.varm["PCs"]
    compare(adata, steps=5, n_permutations=1)
    assert "comparison_genes" not in adata.uns


def test_a_third_condition_is_refused_and_nothing_written() -> None:
    adata = cells()
    adata.obs.loc["c0", "drug"] = "other"
    with pytest.raises(ValueError, match="got 3 conditions"):
        compare(adata)
    assert not any("comparison" in key for key in adata.uns)


def test_expression_on_disk_is_compared_in_genes(tmp_path) -> None:
    adata = cells()
    options = {"use_rep": "X", "n_dims": D, "steps": 20, "n_permutations": 1}
    compare(adata, **options)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    torch.manual_seed(0)
    compare(backed, **options)
    assert list(backed.uns["comparison_genes"].columns) == ["effect", "difference", "p", "fdr"]
    got, true = (a.uns["comparison_genes"].loc[adata.var_names] for a in (backed, adata))
    np.testing.assert_allclose(got["effect"], true["effect"], atol=0.05)
