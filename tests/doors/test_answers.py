"""Fates and compositions at the AnnData door."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import cellflow as cf
from cellflow import tl
from cellflow.methods import SF2M, UOTCFM
from cellflow.networks import MLPConfig
from cli_files import cellflow_

SMALL = {"net": MLPConfig(32, 2)}
DAYS = (0.0, 1.0, 3.0)
#: Cells of the lower and of the upper kind by day.
SIZES = ((30, 30), (20, 40), (10, 50))


def cells() -> anndata.AnnData:
    """Two kinds of cells, far apart, whose shares change, in no particular order."""
    rng = np.random.default_rng(0)
    x, day, kind = [], [], []
    for time, sizes in zip(DAYS, SIZES, strict=True):
        for where, n, name in zip((0.0, 20.0), sizes, ("low", "up"), strict=True):
            x.append(rng.normal([time, where], 0.3, (n, 2)))
            day += [time] * n
            kind += [name] * n
    order = rng.permutation(len(day))
    obs = pd.DataFrame({"day": np.array(day)[order], "kind": pd.Categorical(np.array(kind)[order])})
    obs.index = [f"c{i}" for i in range(len(obs))]
    return anndata.AnnData(obs=obs, obsm={"X_pca": np.concatenate(x)[order].astype(np.float32)})


@pytest.fixture
def adata() -> anndata.AnnData:
    return cells()


@pytest.fixture(scope="module")
def fit() -> cf.Fit:
    return fitted(UOTCFM(**SMALL))


def fitted(method, **options) -> cf.Fit:
    options = {"label_key": "kind", "steps": 300, "progress": False} | options
    return tl.fit(cells(), time_key="day", method=method, **options)


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_fates_of_kinds_that_do_not_mix(adata, fit, tmp_path) -> None:
    tl.fates(adata, fit)
    table = adata.obsm["fates"]
    assert list(table.columns) == ["low", "up"]
    assert list(table.index) == list(adata.obs_names)
    own = table.to_numpy()[np.arange(len(adata)), adata.obs["kind"].cat.codes]
    np.testing.assert_allclose(own, 1.0, atol=1e-6)
    np.testing.assert_allclose(adata.obs["fate_entropy"], 0.0, atol=1e-5)
    assert adata.uns["fates"]["time"] == 3.0
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(again.obsm["fates"], table)
    adata.write_zarr(tmp_path / "cells.zarr")
    pd.testing.assert_frame_equal(anndata.read_zarr(tmp_path / "cells.zarr").obsm["fates"], table)


def test_fates_of_plans_and_ensembles_and_bridges(adata) -> None:
    """Within reach kinds stay apart; a balanced bridge keeps those whose share rises."""
    coupled = tl.couple(adata, time_key="day", coupling=cf.couplings.Reach(3.0), progress=False)
    tl.fates(adata, coupled, label_key="kind")
    plans = adata.obsm["fates"]
    assert "fates_sampling_error" not in adata.obsm
    several = fitted(SF2M(0.3, **SMALL), members=2, workers=1)
    tl.fates(adata, several, n_futures=20)
    own = adata.obs["kind"].cat.codes
    early = (adata.obs["day"] < 3).to_numpy()
    assert (plans.to_numpy()[np.arange(len(adata)), own][early] > 0.999).all()
    assert (adata.obsm["fates"]["up"][early & (adata.obs["kind"] == "up")] > 0.95).all()
    assert adata.obsm["fates_member_error"].shape == (len(adata), 2)
    before = adata.obsm["fates"].copy()
    tl.fates(adata, several, n_futures=20)
    pd.testing.assert_frame_equal(adata.obsm["fates"], before)


@pytest.mark.parametrize("kind", ["flow", "plans"])
def test_ancestors_of_kinds_that_do_not_mix(adata, fit, kind) -> None:
    """Cells of day 1 and 3 come from their own kind; those before the start have no ancestors."""
    if kind == "plans":
        reach = cf.couplings.Reach(3.0)
        fit = tl.couple(adata, time_key="day", coupling=reach, progress=False)
    tl.ancestors(adata, fit, label_key="kind", start=1.0)
    table, day = adata.obsm["ancestors"], adata.obs["day"].to_numpy()
    assert table[day == 0].isna().all(axis=None)
    own = table.to_numpy()[np.arange(len(adata)), adata.obs["kind"].cat.codes]
    np.testing.assert_allclose(own[day > 0], 1.0, atol=1e-6)
    assert adata.uns["ancestors"]["n_without"] == 60
    with pytest.raises(ValueError, match="`start`: got 3, expected an earlier time of the fit"):
        tl.ancestors(adata, fit, label_key="kind", start=3.0)


def test_terminal_groups_and_earlier_ends(adata, fit) -> None:
    tl.fates(adata, fit, terminal=["up"], end=1.0)
    table = adata.obsm["fates"]
    assert list(table.columns) == ["other", "up"]
    late = (adata.obs["day"] == 3).to_numpy()
    assert table[late].isna().all(axis=None)
    assert not table[~late].isna().any(axis=None)
    assert adata.uns["fates"]["n_without"] == late.sum()


@pytest.mark.parametrize("key", ["kind", None])
def test_sinks_are_found_and_named_after_the_labels_of_their_cells(adata, key, tmp_path) -> None:
    """Kinds are far apart: each is a sink, the upper with more mass."""
    flow = fitted(UOTCFM(**SMALL), label_key=key)
    adata.obs["all"] = "one"
    tl.fates(adata, flow, terminal="sinks")
    table, up = adata.obsm["fates"], (adata.obs["kind"] == "up").to_numpy()
    assert list(table.columns) == (["sink 1", "sink 2"] if key is None else ["low", "up"])
    np.testing.assert_allclose(table["sink 1" if key is None else "up"], up, atol=1e-6)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    tl.fates(adata, flow, terminal="sinks", label_key="all")
    assert list(adata.obsm["fates"].columns) == ["one 1", "one 2"]
    np.testing.assert_allclose(adata.obsm["fates"]["one 1"], up, atol=1e-6)
    coupled = tl.couple(adata, time_key="day", progress=False)
    with pytest.raises(ValueError, match="`terminal`: got 'sinks', expected labels"):
        tl.fates(adata, coupled, label_key="kind", terminal="sinks")


def test_fates_do_not_depend_on_the_order_of_cells(adata, fit) -> None:
    tl.fates(adata, fit)
    order = np.random.default_rng(1).permutation(len(adata))
    other = adata[order].copy()
    tl.fates(other, fit)
    pd.testing.assert_frame_equal(
        other.obsm["fates"].loc[adata.obs_names], adata.obsm["fates"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_key": "state"}, "`label_key`: got 'state'"),
        ({"terminal": ["gone"]}, "`terminal`: got 'gone'"),
        ({"end": 2.0}, "`end`: got 2, expected a later time of the fit: 1, 3"),
        ({"end": 0.0}, "`end`: got 0"),
        ({"n_futures": 0}, "`n_futures`"),
    ],
)
def test_bad_input_leaves_nothing_behind(adata, fit, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        tl.fates(adata, fit, **options)
    assert "fates" not in adata.obsm
    assert "fates" not in adata.uns
    assert "fate_entropy" not in adata.obs


def test_cells_without_a_label_tell_nothing(adata, fit) -> None:
    tl.fates(adata, fit)
    before = adata.obsm["fates"].copy()
    hidden = ((adata.obs["day"] == 3) & (adata.obs["kind"] == "up")).to_numpy().nonzero()[0][:5]
    adata.obs.loc[adata.obs_names[hidden], "kind"] = None
    tl.fates(adata, fit)
    assert adata.obsm["fates"].iloc[hidden].isna().all(axis=None)
    rest = adata.obs_names.delete(hidden)
    pd.testing.assert_frame_equal(adata.obsm["fates"].loc[rest], before.loc[rest], atol=1e-6)
    adata.obs.loc[adata.obs["day"] == 3, "kind"] = None
    with pytest.raises(ValueError, match="no cell with a label in obs.* at time 3"):
        tl.fates(adata, fit)


def test_transitions_of_kinds_that_do_not_mix(adata, fit) -> None:
    """Also from where nothing was observed; shares of masses, which plans and flows agree on."""
    for start, end in ((0, 3), ("1", "3"), (0.5, 2.0)):
        table = tl.transitions(adata, fit, start=start, end=end)
        np.testing.assert_allclose(table, np.eye(2), atol=1e-6)
        assert list(table.index) == list(table.columns) == ["low", "up"]
        assert (table.index.name, table.columns.name) == (f"day {start}", f"day {float(end):g}")
    reach = cf.couplings.Reach(3.0)
    coupled = tl.couple(adata, time_key="day", coupling=reach, progress=False)
    plans = tl.transitions(adata, coupled, label_key="kind", normalize="end")
    np.testing.assert_allclose(plans, np.eye(2), atol=1e-6)
    pd.testing.assert_frame_equal(plans, coupled.table("kind", 0, 3, normalize="end"))
    mass = tl.transitions(adata, fit, normalize=None)
    share = mass / mass.to_numpy().sum()
    assert share.loc["up", "up"] == pytest.approx(50 / 60, abs=0.06)  # as many as are observed
    with pytest.raises(ValueError, match="`normalize`: got 'rows'"):
        tl.transitions(adata, fit, normalize="rows")
    with pytest.raises(ValueError, match="`label_key`: got None"):
        tl.transitions(adata, coupled)
    with pytest.warns(UserWarning, match="4 is outside the fit's times"):
        tl.transitions(adata, fit, end=4.0)


def test_composition_of_growing_kinds(adata, fit) -> None:
    """Observed shares are counts, and predicted ones near the geometric means."""
    table = tl.composition(adata, fit, times=[0.5, 2.0], progress=False)
    up = table[table["label"] == "up"].set_index(["source", "time"])["share"]
    for time, (low, high) in zip(DAYS, SIZES, strict=True):
        assert up["observed", time] == pytest.approx(high / (low + high))
    for time, ends in ((0.5, (0, 1)), (2.0, (1, 2))):
        low, high = (np.sqrt(SIZES[ends[0]][k] * SIZES[ends[1]][k]) for k in (0, 1))
        assert up["geometric", time] == pytest.approx(high / (low + high))
        assert up["predicted", time] == pytest.approx(up["geometric", time], abs=0.04)
    totals = table.groupby(["source", "time"])["share"].sum()
    np.testing.assert_allclose(totals, 1.0, rtol=1e-6)
    assert adata.uns["composition"].equals(table)


def test_composition_of_a_day_left_out(adata, fit) -> None:
    table = tl.composition(adata, fit, held_out=True, steps=300, progress=False)
    up = table[table["label"] == "up"].set_index(["source", "time"])["share"]
    assert up["held out", 1.0] == pytest.approx(up["geometric", 1.0], abs=0.08)
    assert {"arithmetic", "geometric"} <= set(table.loc[table["time"] == 1.0, "source"])


def test_interpolated_cells_are_labelled_where_they_are(adata) -> None:
    """Cells drift from the place of one label to that of another, and change it on the way."""
    adata.obs["kind"] = pd.Categorical(np.where(adata.obs["day"] < 2, "early", "late"))
    fit = tl.fit(
        adata, time_key="day", method=cf.OTCFM(**SMALL), label_key="kind", steps=300, progress=False
    )
    soon, later = (tl.interpolate(fit, time=time) for time in (1.1, 2.9))
    for cells in (soon, later):
        assert set(cells.obs["origin_kind"]) == {"early"}
        np.testing.assert_allclose(cells.obsm["kind_probability"].sum(1), 1.0)
    assert (soon.obs["kind"] == "early").mean() > 0.9
    assert (later.obs["kind"] == "late").mean() > 0.9
    observed = tl.interpolate(fit, time=1.0)
    assert (observed.obs["kind"] == observed.obs["origin_kind"]).all()


def test_fates_on_the_command_line(adata, fit, tmp_path) -> None:
    file, folder, out = tmp_path / "cells.h5ad", tmp_path / "fit", tmp_path / "fates.csv"
    adata.write_h5ad(file)
    fit.save(folder)
    result = cellflow_("fates", folder, file, "--end", 1.0, "--no-growth", "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"120 cells, saved to {out}" in result.stdout
    tl.fates(adata, fit, end=1.0, growth=False)
    table = pd.read_csv(out, index_col=0)
    np.testing.assert_allclose(table[["low", "up"]], adata.obsm["fates"], atol=1e-6)
    result = cellflow_("fates", folder, file, "--end", 2.0, "--out", tmp_path / "no.csv")
    assert result.exit_code == 2
    assert "a later time of the fit: 1, 3" in result.stderr
    assert not (tmp_path / "no.csv").exists()
