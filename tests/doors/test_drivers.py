"""Drivers and trends of genes at the AnnData door."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats

import cellflow as cf
from cellflow import tl
from cellflow.answers import fate_gradient, trends
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot

DAYS, EACH, GENES = (0.0, 1.0, 3.0), 40, 12
METHOD = cf.OTCFM(net=MLPConfig(16, 2))


def cells(form=np.asarray) -> anndata.AnnData:
    """Cells of two kinds that part with time, in their own components, in no order."""
    rng = np.random.default_rng(0)
    day, kind = np.repeat(DAYS, EACH), np.tile(["down", "up"], EACH * len(DAYS) // 2)
    order = rng.permutation(len(day))
    day, kind = day[order], kind[order]
    x = 2 + rng.normal(0, 0.3, (len(day), GENES)) + 0.3 * day[:, None] * np.linspace(0, 1, GENES)
    x[:, 0] += 0.5 * (0.5 + day) * (kind == "up")
    x[:, 1] -= 0.5 * (0.5 + day) * (kind == "up")
    x[x < 1.5] = 0
    obs = pd.DataFrame({"day": day, "kind": pd.Categorical(kind)})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=[f"g{k}" for k in range(GENES)])
    out = anndata.AnnData(form(x), obs, var, layers={"double": form(2 * x)})
    cf.pp.pca(out, n_components=3)
    return out


@pytest.fixture(scope="module")
def fit() -> cf.Fit:
    return tl.fit(
        cells(), time_key="day", method=METHOD, label_key="kind", steps=200, progress=False
    )


@pytest.fixture
def adata(fit) -> anndata.AnnData:
    made = cells()
    tl.fates(made, fit)
    return made


def test_drivers_are_the_correlations_of_cells_before_the_end(adata) -> None:
    found = tl.drivers(adata, "up")
    early = (adata.obs["day"] < 3).to_numpy()
    p = adata.obsm["fates"]["up"].to_numpy()[early]
    for k, gene in enumerate(adata.var_names):
        test = stats.pearsonr(np.asarray(adata.X)[early, k], p)
        assert found.loc[gene, "correlation"] == pytest.approx(test.statistic)
        assert found.loc[gene, "p_value"] == pytest.approx(test.pvalue)
    assert found.index[0] == "g0" and found.index[-1] == "g1"
    assert found["correlation"].is_monotonic_decreasing
    pd.testing.assert_frame_equal(adata.uns["drivers_up"], found)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_drivers_of_layers_raw_sparse_and_backed_expression(adata, fit, form, tmp_path) -> None:
    dense = tl.drivers(adata, "up")
    other = cells(form)
    other.obsm["fates"], other.uns["fates"] = adata.obsm["fates"], adata.uns["fates"]
    other.raw = other.copy()
    for layer in (None, "double", "raw"):
        pd.testing.assert_frame_equal(tl.drivers(other, "up", layer=layer), dense)
    pd.testing.assert_frame_equal(tl.drivers(other[::-1].copy(), "up"), dense)
    if form is sparse.csr_matrix:
        del other.uns["drivers_up"]
        other.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        pd.testing.assert_frame_equal(tl.drivers(backed, "up"), dense)
        one = tl.gene_trends(backed, ["g0", "g3"], fate="up", n_boot=10)
        pd.testing.assert_frame_equal(
            one, tl.gene_trends(adata, ["g0", "g3"], fate="up", n_boot=10)
        )
        backed.file.close()


def test_gradients_are_brought_back_by_the_loadings(adata, fit) -> None:
    """They are means over cells of those of the answer, and those of genes where a fit is to X."""
    found = tl.drivers(adata, "up", method="gradient", fit=fit, neighbours=40)
    x, day = torch.from_numpy(adata.obsm["X_pca"]), adata.obs["day"]
    rows = {t: np.flatnonzero(day == t) for t in DAYS}
    ends = Snapshot(x[rows[3.0]], 3.0, labels=adata.obs["kind"].iloc[rows[3.0]].tolist())
    each = [
        fate_gradient(fit, Snapshot(x[rows[t]], t), ends, group="up", neighbours=40).gradient
        for t in (0.0, 1.0)
    ]
    genes = torch.cat(each).numpy() @ adata.varm["PCs"].T
    genes = pd.DataFrame(genes, columns=adata.var_names)
    genes = genes[genes.notna().all(1)]
    pd.testing.assert_series_equal(
        found["gradient"], genes.mean()[found.index], check_names=False, rtol=1e-6
    )
    half = 1.959964 * genes.sem()[found.index]
    np.testing.assert_allclose(found["high"] - found["gradient"], half, rtol=1e-5)
    assert found.index[0] == "g0" and found.index[-1] == "g1"
    assert adata.uns["drivers_up"].equals(found)


def test_gradients_of_ensembles_and_of_fits_to_expression(adata) -> None:
    options = {"time_key": "day", "label_key": "kind", "steps": 200, "progress": False}
    several = tl.fit(adata, method=METHOD, members=2, workers=1, **options)
    found = tl.drivers(adata, "up", method="gradient", fit=several, neighbours=40)
    assert (found["member_std"] > 0).all()
    whole = tl.fit(adata, method=METHOD, use_rep="X", n_dims=3, **options)
    tl.fates(adata, whole)
    direct = tl.drivers(adata, "up", method="gradient", fit=whole, neighbours=40)
    assert set(direct.index) == set(adata.var_names)
    assert direct.index[0] == "g0" and direct.index[-1] == "g1"
    assert direct["gradient"].corr(found["gradient"]) > 0.9


def test_groups_that_were_not_named_are_one(adata, fit) -> None:
    """Of two groups, what leads to one leads away from the other."""
    tl.fates(adata, fit, terminal=["up"])
    options = {"method": "gradient", "fit": fit, "neighbours": 40}
    up, other = (tl.drivers(adata, fate, **options) for fate in ("up", "other"))
    assert other.index[0] == "g1" and other.index[-1] == "g0"
    assert up["gradient"].corr(other["gradient"]) < -0.8
    signs = tl.drivers(adata, "up")["correlation"], -tl.drivers(adata, "other")["correlation"]
    pd.testing.assert_series_equal(*signs, check_like=True)


def test_trends_weigh_cells_by_their_fate(adata) -> None:
    table = tl.gene_trends(adata, ["g0", "g5"], fate=["up", "down"], n_boot=20)
    assert list(table.columns) == ["gene", "fate", "time", "mean", "low", "high"]
    rows = [np.flatnonzero(adata.obs["day"] == t) for t in DAYS]
    x, p = (torch.from_numpy(np.asarray(v)) for v in (adata.X, adata.obsm["fates"]["up"]))
    alone = trends([x[r][:, [0, 5]] for r in rows], DAYS, [p[r] for r in rows], n_boot=2)
    part = table[(table["gene"] == "g5") & (table["fate"] == "up")]
    np.testing.assert_allclose(part["mean"], alone.mean[:, 1])
    np.testing.assert_allclose(part["time"], alone.times)
    last = table[(table["gene"] == "g0") & (table["time"] == 3)].set_index("fate")
    assert last["low"]["up"] > last["high"]["down"] + 1
    assert adata.uns["gene_trends"].equals(table)


def test_trends_of_all_cells_need_no_fit() -> None:
    adata = cells()
    adata.obs["stage"] = pd.Categorical([f"D{day:g}" for day in adata.obs["day"]])
    table = tl.gene_trends(adata, "g4", time_key="stage", n_boot=10)
    assert set(table["fate"]) == {"all"} and set(table["gene"]) == {"g4"}
    pd.testing.assert_frame_equal(table, tl.gene_trends(adata, "g4", time_key="day", n_boot=10))
    assert set(adata.uns) == {"pca", "gene_trends"}


def test_times_mean_what_they_meant_to_the_fit() -> None:
    """Labels that only a map could read, in plans without a column of their own, and on disk."""
    adata = cells()
    adata.obs["stage"] = adata.obs["day"].map({0.0: "early", 1.0: "mid", 3.0: "late"})
    known = {"early": 0.0, "mid": 1.0, "late": 3.0}
    coupled = tl.couple(adata, time_key="stage", time_map=known, progress=False)
    tl.fates(adata, coupled, label_key="kind")
    found = tl.drivers(adata, "up", time_key="stage")
    pd.testing.assert_frame_equal(found, tl.drivers(adata, "up", time_key="day"))
    with pytest.raises(ValueError, match="`time_key`: got None"):
        tl.drivers(adata, "up")
    options = {"time_map": known, "label_key": "kind", "steps": 20, "progress": False}
    fit = tl.fit(adata, time_key="stage", method=METHOD, **options)
    tl.fates(adata, fit)
    table = tl.gene_trends(adata, "g0", fate="up", n_boot=5)
    assert table["time"].max() == 3.0


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_tables_go_to_disk_and_back(adata, tmp_path) -> None:
    found = tl.drivers(adata, "up")
    table = tl.gene_trends(adata, "g0", fate="up", n_boot=5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    for again in (
        anndata.read_h5ad(tmp_path / "cells.h5ad"),
        anndata.read_zarr(tmp_path / "cells.zarr"),
    ):
        pd.testing.assert_frame_equal(again.uns["drivers_up"], found)
        pd.testing.assert_frame_equal(
            again.uns["gene_trends"].reset_index(drop=True), table, check_dtype=False
        )
        pd.testing.assert_frame_equal(tl.drivers(again, "up"), found)
    adata.obsm["fates"] = adata.obsm["fates"].rename(columns={"up": "up/on"})
    tl.drivers(adata, "up/on")
    pd.testing.assert_frame_equal(adata.uns["drivers_up_on"], found)


def break_table(adata) -> None:
    adata.obsm["fates"] = adata.obsm["fates"].to_numpy()


def repeat_names(adata) -> None:
    adata.var_names = [f"g{max(k, 1)}" for k in range(GENES)]


def spoil(adata) -> None:
    adata.X[(adata.obs["day"] == 1).to_numpy(), 2] = np.nan


def rename(adata) -> None:
    adata.var_names = [f"h{k}" for k in range(GENES)]


GRADIENT = {"method": "gradient"}


@pytest.mark.parametrize(
    ("prepare", "call", "message"),
    [
        (None, {"key": "fate"}, "`key`: got 'fate', which is not in obsm"),
        (break_table, {}, "`key`: got a ndarray without names of fates"),
        (None, {"fate": "upp"}, "`fate`: got 'upp', .* Did you mean 'up'"),
        (None, {"genes": ["g0", "gene1"]}, "`genes`: got 'gene1'"),
        (None, {"genes": ["g0", "g0"]}, "`genes`: got .*each gene once"),
        (None, {"genes": []}, "`genes`: got none"),
        (None, {"genes": "g0", "fate": []}, "`fate`: got none"),
        (None, {"layer": "counts"}, "`layer`: got 'counts', expected one of 'double'"),
        (None, {"layer": "raw"}, "`layer`: got 'raw'"),
        (None, {"time_key": "hour"}, "`time_key`: got 'hour'"),
        (repeat_names, {}, "`adata`: got gene 'g1' twice"),
        (repeat_names, {"genes": "g2"}, "`adata`: got gene 'g1' twice"),
        (spoil, {}, "got NaN or infinite values"),
        (spoil, {"genes": "g2"}, "got NaN or infinite values"),
        (None, {"method": "slope"}, "`method`: got 'slope'"),
        (None, GRADIENT, "`fit`: got None"),
        (rename, GRADIENT | {"fit": True}, "`adata`: got no gene 'g0' .12 of 12 are missing"),
    ],
)
def test_bad_input_leaves_nothing_behind(adata, fit, prepare, call, message) -> None:
    if prepare is not None:
        prepare(adata)
    before = set(adata.uns)
    call = {"fate": "up"} | call
    if "fit" in call:
        call["fit"] = fit
    door = tl.gene_trends if "genes" in call else tl.drivers
    with pytest.raises(ValueError, match=message):
        door(adata, **call)
    assert set(adata.uns) == before
