"""Conditions at the AnnData door: predicted cells, their names, columns and genes; hold-outs."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

import cellflow as cf
from cellflow import Snapshot, evaluate, pp, tl
from cellflow.networks import MLPConfig

N = 25
EFFECTS = {"control": (0.0, 0.0), "A": (3.0, 0.0), "B": (0.0, 2.0), "A+B": (3.0, 2.0)}
LOADINGS = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
METHOD = cf.OTCFM(net=MLPConfig(16, 1))
KEYS = {"time_key": "day", "condition_key": "drug", "control": "control", "method": METHOD}


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    """Two components, three genes, and masses; controls on both days."""
    rng = np.random.default_rng(0)
    drugs, days = ["control", *EFFECTS], np.repeat([0.0, 2.0, 2.0, 2.0, 2.0], N)
    x = np.concatenate([rng.normal(size=(N, 2)) + 6 + np.array(EFFECTS[d]) for d in drugs])
    obs = pd.DataFrame({"day": days, "drug": np.repeat(drugs, N)})
    obs.index = [f"c{k}" for k in range(len(obs))]
    var = pd.DataFrame(index=["g0", "g1", "g2"])
    out = anndata.AnnData(x @ LOADINGS.T, obs, var)
    pp.pca(out, n_components=2)
    return out


@pytest.fixture(scope="module")
def fit(adata) -> cf.Fit:
    return tl.fit(adata, steps=5, progress=False, **KEYS)


@pytest.fixture(scope="module")
def controls(adata) -> anndata.AnnData:
    return adata[adata.obs["drug"] == "control"]


def test_cells_of_the_first_day_are_carried_under_the_condition(adata, controls, fit) -> None:
    found = tl.predict(controls, fit, condition="B", time=1.5)
    start = Snapshot(torch.from_numpy(adata.obsm["X_pca"][:N]), 0.0)
    assert_allclose(found.obsm["X_pca"], fit.given("B").predict(start, 1.5).x, rtol=1e-6)
    assert list(found.obs["origin"]) == list(adata.obs_names[:N])
    assert found.obs_names[3] == "B-c3-3"
    assert (found.obs["day"] == 1.5).all()
    assert list(found.obs.columns) == ["day", "mass", "origin", "condition", "drug"]
    assert set(found.obs["condition"]) == set(found.obs["drug"]) == {"B"}
    assert list(found.var_names) == ["g0", "g1", "g2"]
    shown = found.obsm["X_pca"] @ adata.varm["PCs"].T + np.asarray(adata.X).mean(0)
    assert_allclose(found.X, shown, atol=1e-4)
    assert (tl.predict(controls, fit, condition="B").obs["day"] == 2.0).all()


def test_genes_guidance_and_other_cells(controls, fit) -> None:
    some = tl.predict(controls[:4], fit, condition="A", genes=["g2", "g0"])
    assert list(some.var_names) == ["g2", "g0"]
    assert some.n_obs == 4
    none = tl.predict(controls[:4], fit, condition="A", genes=[])
    assert none.n_vars == 0
    assert_allclose(none.obsm["X_pca"], some.obsm["X_pca"])
    more = tl.predict(controls[:4], fit, condition="A", genes=[], guidance=3.0)
    start = Snapshot(torch.from_numpy(controls[:4].obsm["X_pca"]), 0.0)
    wanted = fit.given("A", guidance=3.0).predict(start, 2.0).x
    assert_allclose(more.obsm["X_pca"], wanted, rtol=1e-6)
    assert not np.allclose(more.obsm["X_pca"], none.obsm["X_pca"])


def test_several_conditions_seen_or_not_stand_one_after_the_other(controls, fit) -> None:
    asked = ["A", "A+B", {"drug": "B"}]
    found = tl.predict(controls, fit, condition=asked)
    assert found.obs_names.is_unique
    assert list(found.obs["condition"]) == list(np.repeat(["A", "A+B", "B"], N))
    for one in asked:
        alone = tl.predict(controls, fit, condition=one)
        rows = found.obs["condition"] == alone.obs["condition"].iloc[0]
        assert_allclose(found[rows].obsm["X_pca"], alone.obsm["X_pca"], rtol=1e-6)
        assert_allclose(found[rows].X, alone.X, rtol=1e-6)
    assert list(found.varm) == ["PCs"]


def test_unseen_conditions_of_ensembles(adata, controls) -> None:
    seen = adata[adata.obs["drug"] != "A+B"]
    both = tl.fit(seen, steps=5, members=2, workers=1, progress=False, **KEYS)
    found = tl.predict(controls, both, condition="A+B", genes=[])
    assert found.n_obs == 2 * N
    assert list(found.obs["member"].unique()) == [0, 1]
    assert list(found.obs["origin"]) == 2 * list(adata.obs_names[:N])
    start = Snapshot(torch.from_numpy(adata.obsm["X_pca"][:N]), 0.0)
    for k, one in enumerate(both):
        wanted = one.given("A+B").predict(start, 2.0).x
        assert_allclose(found[found.obs["member"] == k].obsm["X_pca"], wanted, rtol=1e-5)


def test_masses_are_those_of_the_cells(adata) -> None:
    heavy = adata.copy()
    heavy.obs["size"] = np.linspace(1, 2, len(heavy))
    fit = tl.fit(heavy, steps=2, progress=False, mass_key="size", **KEYS)
    found = tl.predict(heavy[:9], fit, condition="A")
    mass = found.obs["mass"].to_numpy()
    assert_allclose(mass / mass[0], heavy.obs["size"][:9] / heavy.obs["size"].iloc[0], rtol=1e-6)


def test_what_cannot_be_predicted_is_one_clear_error(adata, controls, fit) -> None:
    plain = tl.fit(controls, time_key="day", method=METHOD, steps=1, progress=False)
    lost = controls[:0]
    for call, match in (
        (lambda: tl.predict(controls, plain, condition="A"), "fit.*condition_key"),
        (lambda: tl.predict(controls, fit, condition=[]), "condition.*none"),
        (lambda: tl.predict(controls, fit, condition=["A+B", "B+A"]), "condition.*more than once"),
        (lambda: tl.predict(controls, fit, condition="C"), "drug.*C"),
        (lambda: tl.predict(lost, fit, condition="A"), "day"),
        (lambda: tl.predict(controls, fit, condition="A", guidance=-1.0), "guidance"),
        (lambda: tl.predict(controls, fit, condition="A", genes=["g9"]), "g9"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_the_door_leaves_conditions_out_as_the_function_does(adata) -> None:
    how = {"conditions": ["A+B"], "steps": 2, "seeds": 1, "workers": 1, "progress": False}
    found = tl.holdout_conditions(adata, **KEYS, **how)
    course = tl.fit(adata, steps=1, progress=False, **KEYS).course
    assert found == evaluate.holdout_conditions(course, METHOD, **how)
    first, second = (
        tl.holdout_conditions(adata, **KEYS | {"method": methods}, **how)
        for methods in (["otcfm"], [METHOD, replace(METHOD, name="other")])
    )
    assert first.models == ["otcfm"]
    assert second.models == ["otcfm", "other"]
    scaled = tl.holdout_conditions(adata, whiten=True, **KEYS, **how)
    assert scaled.values("A+B", "control", "w1") != found.values("A+B", "control", "w1")


# --- control and perturbed cells, without a column of times ------------------------------------


@pytest.fixture(scope="module")
def untimed(adata) -> anndata.AnnData:
    """The controls of the first day, and the perturbed cells of the other."""
    return adata[(adata.obs["day"] == 0) | (adata.obs["drug"] != "control")].copy()


BARE = {k: v for k, v in KEYS.items() if k != "time_key"}


def test_without_times_the_controls_come_first(untimed, tmp_path) -> None:
    """As with a column that says so, in every tool, after loading, and for several columns."""
    told = untimed.copy()
    told.obs["step"] = (told.obs["drug"] != "control").astype(float)
    bare = tl.fit(untimed, steps=5, progress=False, **BARE)
    known = tl.fit(told, time_key="step", steps=5, progress=False, **BARE)
    assert bare.course.times == (0.0, 1.0)
    bare.save(tmp_path / "fit")
    controls = told[told.obs["drug"] == "control"]
    for fit in (bare, cf.load(tmp_path / "fit")):
        found, wanted = (tl.predict(controls, one, condition="A") for one in (fit, known))
        assert_allclose(found.obsm["X_pca"], wanted.obsm["X_pca"])
        assert (found.obs["time"] == 1.0).all()
        also = tl.predict(untimed, fit, condition="A")
        assert_allclose(also.obsm["X_pca"], wanted.obsm["X_pca"])
    cells, _ = pp.course(untimed, condition_key="drug", control="control")
    assert torch.equal(cells.x, bare.course.x)
    assert torch.equal(cells.snapshots[1].condition, bare.course.snapshots[1].condition)
    untimed.obs["dose"] = np.where(untimed.obs["drug"] == "control", 0, 2)
    keys = {"condition_key": ["drug", "dose"], "control": {"dose": 0.0}, "unit": "hour"}
    cells, _ = pp.course(untimed, time_map={0.0: 0.0, 1.0: 24.0}, **keys)
    assert [(s.time, len(s)) for s in cells.snapshots] == [(0.0, N), (24.0, 3 * N)]
    assert tl.interpolate(bare.given("B"), time=0.5).obs["time"].eq(0.5).all()


def test_hold_outs_without_times_are_those_of_two_days(untimed) -> None:
    how = {"conditions": ["B"], "steps": 2, "seeds": 1, "workers": 1, "progress": False}
    bare, days = (tl.holdout_conditions(untimed, **keys, **how) for keys in (BARE, KEYS))
    assert bare.values("B", "control", "w1") == days.values("B", "control", "w1")
    assert bare.models == ["otcfm"]


def test_times_that_nothing_tells_are_one_clear_error(untimed) -> None:
    for keys, match in (
        ({}, "`time_key`: got None.*`condition_key` and `control`"),
        ({"condition_key": "drug"}, "`time_key`: got None"),
        ({"condition_key": "drug", "control": "DMSO"}, "`control`: got .*DMSO"),
    ):
        with pytest.raises(ValueError, match=match):
            tl.fit(untimed, **keys)
    controls = untimed[untimed.obs["drug"] == "control"]
    with pytest.raises(ValueError, match="`conditions`: got one time point"):
        tl.fit(controls, condition_key="drug", control="control")


def test_the_command_line_fits_without_times(untimed, tmp_path) -> None:
    from cli_files import cellflow_

    untimed.write_h5ad(tmp_path / "cells.h5ad")
    words = ("--condition-key", "drug", "--control", "control", "--method", "otcfm", "--steps", 2)
    done = cellflow_("fit", tmp_path / "cells.h5ad", *words, "-q", "--out", tmp_path / "fit")
    assert done.exit_code == 0, done.output
    asked = ("--condition", "A+B", "--out", tmp_path / "new.h5ad")
    cellflow_("predict", tmp_path / "fit", tmp_path / "cells.h5ad", *asked)
    assert anndata.read_h5ad(tmp_path / "new.h5ad").n_obs == N
