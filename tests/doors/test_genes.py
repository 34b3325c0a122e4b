"""Fits to principal components that were found elsewhere answer in genes."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from torch import nn

import cellflow as cf
from cellflow import OTCFM, tl
from cellflow.cli.files import read_cells
from cellflow.dynamics import Dynamics
from cellflow.networks import MLPConfig
from cellflow.pp.access import on_disk
from cellflow.pp.genes import gene_facts
from cellflow.timecourse import Snapshot, TimeCourse
from expression import counts

METHOD = OTCFM(net=MLPConfig(8, 2))
D = 4


def cells(form=np.asarray, dtype=np.float64, *, mask=None, **options) -> anndata.AnnData:
    """Ninety cells of three days with components by scanpy."""
    x = counts(90, 12, dtype)
    x[1::3, :4] += 1
    obs = pd.DataFrame({"day": np.arange(90) % 3}, index=[f"c{k}" for k in range(90)])
    var = pd.DataFrame({"highly_variable": np.arange(12) % 4 > 0})
    var.index = [f"g{k}" for k in range(12)]
    adata = anndata.AnnData(form(x), obs=obs, var=var)
    sc.pp.pca(adata, n_comps=D, mask_var=mask, dtype=np.dtype(dtype).name, **options)
    return adata


def fit(adata: anndata.AnnData, **options) -> cf.Fit:
    options = {"method": METHOD, "steps": 5, "progress": False} | options
    return tl.fit(adata, time_key="day", **options)


def dense(x) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("mask", [None, "highly_variable"])
@pytest.mark.parametrize("zero_center", [True, False])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_scanpy_become_the_genes_of_the_nearest_plane(
    form, dtype, zero_center, mask
) -> None:
    """The best approximation of expression in so many components, by numpy's decomposition."""
    adata = cells(form, dtype, mask=mask, zero_center=zero_center)
    chosen = np.ones(12, bool) if mask is None else adata.var[mask].to_numpy()
    chosen = chosen & (dense(adata.X).max(0) > 0)
    x = dense(adata.X)[:, chosen].astype(float)
    mean = x.mean(0) if zero_center else 0 * x.mean(0)
    u, s, v = np.linalg.svd(x - mean, full_matrices=False)
    best = (u[:, :D] * s[:D]) @ v[:D] + mean
    ours = fit(adata)
    assert ours.origin["var_names"] == list(adata.var_names[chosen])
    close = {"atol": 1e-5 if dtype == np.float32 else 1e-8}
    states = adata.obsm["X_pca"]
    found = tl.expression(ours, states, floor=False)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, best, **close)
    floored = tl.expression(ours, states, genes=["g5", "g3"])
    there = [list(adata.var_names[chosen]).index(g) for g in ("g5", "g3")]
    np.testing.assert_allclose(floored, np.maximum(best, 0)[:, there], **close)


def test_fewer_dimensions_leave_out_the_last_components() -> None:
    adata = cells()
    found = tl.expression(fit(adata, n_dims=2), adata.obsm["X_pca"][:, :2], floor=False)
    two = adata.obsm["X_pca"][:, :2] @ adata.varm["PCs"][:11, :2].T + adata.X.mean(0)[:11]
    np.testing.assert_allclose(found, two, atol=1e-10)


@pytest.mark.parametrize("members", [1, 2])
def test_an_unsampled_day_in_genes_says_what_was_cut(
    members, tmp_path, capsys, monkeypatch
) -> None:
    adata = cells()
    ours = fit(adata, members=members, workers=1)
    monkeypatch.setattr(cf.settings, "verbosity", "hint")
    new = tl.interpolate(ours, time=0.5)
    z = new.obsm["X_pca"] @ new.varm["PCs"].T + adata.X.mean(0)[:11]
    np.testing.assert_allclose(new.X, np.maximum(z, 0), atol=1e-12)
    cut = new.uns["interpolation"]["cut"]
    assert cut["entries"] == (z < 0).mean() > 0
    assert cut["mass"] == pytest.approx(-z[z < 0].sum() / z[z > 0].sum())
    assert capsys.readouterr().err.splitlines() == [
        f"{100 * cut['entries']:.1f} % of the decoded expression was negative and is zero now: "
        f"{cut['mass']:.2g} of the rest."
    ]
    raw = tl.interpolate(ours, time=0.5, floor=False, genes=["g7", "g1"])
    np.testing.assert_allclose(raw.X, z[:, [7, 1]], atol=1e-12)
    np.testing.assert_array_equal(raw.varm["PCs"], new.varm["PCs"][[7, 1]])
    assert "cut" not in raw.uns["interpolation"]
    assert tl.interpolate(ours, time=0.5, genes=[]).shape == (len(z), 0)
    loaded = cf.load(ours.save(tmp_path / "fit"))
    again = tl.interpolate(loaded, time=0.5)
    np.testing.assert_array_equal(again.X, new.X)
    again.write_h5ad(tmp_path / "new.h5ad")
    read = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert read.uns["interpolation"]["cut"] == cut
    assert loaded.origin.keys() == ours.origin.keys()


def test_rotated_components_have_the_same_genes() -> None:
    adata, turned = cells(), cells()
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    turned.obsm["X_pca"], turned.varm["PCs"] = turned.obsm["X_pca"] @ q, turned.varm["PCs"] @ q
    a, b = (
        tl.expression(fit(cells_), cells_.obsm["X_pca"], floor=False) for cells_ in (adata, turned)
    )
    np.testing.assert_allclose(a, b, atol=1e-10)


def test_cells_that_are_left_of_more_keep_their_place() -> None:
    """The mean of those that were there is not known; along the components states tell it."""
    adata = cells()
    some = adata[adata.obs_names[::2]].copy()
    found = tl.expression(fit(some), some.obsm["X_pca"], floor=False)
    basis = adata.varm["PCs"][:11]
    np.testing.assert_allclose(found @ basis, some.X[:, :11] @ basis, atol=1e-10)
    outside = np.eye(11) - basis @ basis.T
    np.testing.assert_allclose(found @ outside, (some.X.mean(0)[:11] @ outside)[None] + 0 * found)


def test_components_by_cellflow_need_no_pass_over_expression(monkeypatch) -> None:
    adata = cells()
    cf.pp.pca(adata, n_components=D)
    monkeypatch.setattr("cellflow.pp.genes.row_chunks", None)
    known = gene_facts(adata, "X_pca", D)["components"]
    np.testing.assert_allclose(known.mean, adata.X.mean(0)[:11], atol=1e-12)


def test_components_under_another_name_and_of_a_layer() -> None:
    adata = cells()
    adata.layers["log"] = adata.X.copy()
    adata.X = np.expm1(adata.X)
    sc.pp.pca(adata, n_comps=D, layer="log", key_added="X_log", mask_var=None, dtype="float64")
    new = tl.interpolate(fit(adata, use_rep="X_log"), time=1.0)
    assert set(new.obsm) == set(new.varm) == {"X_log"}
    x = adata.layers["log"][adata.obs["day"] == 1]
    np.testing.assert_allclose(new.X.mean(0), x.mean(0)[:11], atol=0.15)
    assert "'X_pca' is not what varm['PCs'] makes of X" in gene_facts(adata, "X_pca", D)["no_genes"]


def test_scaled_expression_has_no_floor() -> None:
    adata = cells()
    sc.pp.scale(adata)
    sc.pp.pca(adata, n_comps=D, dtype="float64")
    new = tl.interpolate(fit(adata), time=0.5)
    assert new.X.min() < 0
    assert "cut" not in new.uns["interpolation"]


# --- no way back -----------------------------------------------------------------------------


def scale(adata) -> None:
    sc.pp.scale(adata)


def correct(adata) -> None:
    adata.obsm["X_pca"][::2] += 1


def as_text(adata: anndata.AnnData) -> None:
    adata.varm["PCs"] = adata.varm["PCs"].astype(str)


def shorten(adata) -> None:
    adata.varm["PCs"] = adata.varm["PCs"][:, :2]


def forget(adata) -> None:
    adata.uns["pca"]["params"]["layer"] = "log"


def spoil(adata) -> None:
    adata.X[3, 3] = np.nan


def stretch(adata) -> None:
    adata.varm["PCs"] = adata.varm["PCs"] * 2
    adata.obsm["X_pca"] = adata.obsm["X_pca"] * 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (scale, "makes of X: one of them was changed since"),
        (correct, "makes of X: one of them was changed since"),
        (spoil, "makes of X: one of them was changed since"),
        (shorten, r"varm\['PCs'\] has no loadings of 'X_pca'"),
        (as_text, r"varm\['PCs'\] has no loadings of 'X_pca'"),
        (forget, r"layers\['log'\] is not there"),
        (stretch, "is not orthonormal"),
        (lambda adata: setattr(adata, "X", None), "X is not there"),
    ],
)
def test_without_a_way_back_a_fit_says_why_and_goes_on(change, why, capsys) -> None:
    adata = cells()
    change(adata)
    ours = fit(adata, progress=True)
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "without genes" in s]
    assert ours.origin["no_genes"] in line
    assert tl.interpolate(ours, time=0.5).shape == (30, 0)
    with pytest.raises(ValueError, match=f"`fit`: got a fit of use_rep='X_pca' without .*{why}"):
        tl.expression(ours, adata.obsm["X_pca"])


def test_genes_that_were_removed_are_missed_where_they_counted() -> None:
    adata = cells(mask="highly_variable")
    some = adata[:, adata.var["highly_variable"]].copy()
    a, b = (tl.expression(fit(cells_), adata.obsm["X_pca"]) for cells_ in (adata, some))
    np.testing.assert_allclose(a, b, atol=1e-12)
    assert "genes were removed" in gene_facts(adata[:, 2:].copy(), "X_pca", D)["no_genes"]


# --- a decoder -------------------------------------------------------------------------------


def test_a_decoder_answers_for_a_latent_space() -> None:
    adata = cells()
    adata.obsm["X_scVI"] = adata.obsm["X_pca"][:, :2].astype(np.float32)
    ours = fit(adata, use_rep="X_scVI")
    assert tl.interpolate(ours, time=0.5).shape == (30, 0)

    def decoder(z: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame({"a": np.exp(z[:, 0]), "b": z.sum(1), "c": -(z[:, 1] ** 2)})

    new = tl.interpolate(ours, time=0.5, decoder=decoder)
    z = new.obsm["X_scVI"]
    np.testing.assert_allclose(new.X, decoder(z))
    assert list(new.var_names) == ["a", "b", "c"]
    path = tl.simulate(adata, ours, times=[0.0, 1.0, 2.0]).x
    found = tl.expression(ours, path, decoder=decoder, genes=["b"])
    np.testing.assert_allclose(found[..., 0], path.sum(2), atol=1e-6)
    with pytest.raises(ValueError, match="`decoder`: got a ndarray of .30, 2. for 30 states"):
        tl.interpolate(ours, time=0.5, decoder=lambda z: z)
    with pytest.raises(ValueError, match="`genes`: got 'd'"):
        tl.interpolate(ours, time=0.5, decoder=decoder, genes=["d"])


# --- velocities ------------------------------------------------------------------------------


def linear(adata: anndata.AnnData, a: np.ndarray, rep: str) -> cf.Fit:
    """The field ``v = x A`` as a fit to these cells."""
    x = torch.from_numpy(np.array(adata.X if rep == "X" else adata.obsm[rep]))
    rows = [np.flatnonzero(adata.obs["day"] == t) for t in range(3)]
    course = TimeCourse(tuple(Snapshot(x[row], float(t)) for t, row in enumerate(rows)))
    origin = {"use_rep": rep, "time_key": "day", "labels": {str(t): float(t) for t in range(3)}}
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    field = Dynamics(lambda t, x: x @ torch.from_numpy(a))
    origin |= gene_facts(adata, rep, course.dim)
    return cf.Fit(field, METHOD, course, networks, origin=origin)


def test_velocities_of_genes_are_those_of_a_known_linear_field() -> None:
    """A field on genes and the same on all their components."""
    adata = cells()
    adata = adata[:, :11].copy()
    cf.pp.pca(adata, n_components=11)
    rng = np.random.default_rng(0)
    a, p = rng.normal(size=(11, 11)), adata.varm["PCs"]
    tl.velocity(adata, linear(adata, a, "X"))
    np.testing.assert_allclose(adata.layers["velocity"], adata.X @ a, atol=1e-10)
    np.testing.assert_array_equal(adata.layers["Ms"], adata.X)
    assert adata.var["velocity_genes"].all()
    other = adata.copy()
    del other.layers["Ms"], other.layers["velocity"]
    tl.velocity(other, linear(other, p.T @ a @ p, "X_pca"))
    assert "velocity" not in other.layers
    tl.velocity(other, linear(other, p.T @ a @ p, "X_pca"), genes=True)
    centred = adata.X - adata.X.mean(0)
    np.testing.assert_allclose(other.layers["velocity"], centred @ a, atol=1e-10)
    np.testing.assert_allclose(other.layers["Ms"], adata.X, atol=1e-10)


def test_genes_without_loadings_have_no_velocity_and_others_stay(tmp_path) -> None:
    adata = cells(mask="highly_variable")
    adata.obs.loc["c7", "day"] = np.nan
    theirs = adata.layers["Ms"] = np.full(adata.shape, 3.0)
    ours = fit(adata, missing="drop")
    tl.velocity(adata, ours, genes=True, key_added="flow")
    told = adata.var["flow_genes"].to_numpy()
    np.testing.assert_array_equal(told, adata.var["highly_variable"] & (adata.X.max(0) > 0))
    v = adata.layers["flow"]
    assert (v[:, ~told] == 0).all() and (v[7] == 0).all() and (v[8, told] != 0).all()
    np.testing.assert_allclose(v @ adata.varm["PCs"], adata.obsm["flow_pca"], atol=1e-10)
    np.testing.assert_array_equal(adata.layers["Ms"], theirs)
    del adata.layers["Ms"]
    for _ in range(2):  # what we wrote ourselves is renewed
        tl.velocity(adata, ours, genes=True, key_added="flow")
        states = adata.layers["Ms"][:, told]
        np.testing.assert_allclose(states, tl.expression(ours, adata.obsm["X_pca"], floor=False))
        adata.layers["Ms"][:] = 7
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.layers["flow"], v)


def test_velocities_without_genes_are_refused_before_anything_is_written() -> None:
    adata = cells()
    adata.obsm["X_other"] = adata.obsm["X_pca"]
    for other, rep, message in (
        (adata, "X_other", "`fit`: got a fit of use_rep='X_other' without genes"),
        (adata[:, ::2].copy(), "X_pca", "`adata`: got no gene 'g1' .5 of 11 are missing"),
    ):
        before = list(other.obsm), list(other.uns), list(other.var)
        with pytest.raises(ValueError, match=message):
            tl.velocity(other, fit(adata, use_rep=rep), genes=True)
        assert (list(other.obsm), list(other.uns), list(other.var)) == before


# --- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_the_command_line_finds_genes_in_the_file(form, tmp_path) -> None:
    adata = cells(form)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = read_cells(tmp_path / "cells.h5ad", "pca")
    assert on_disk(read.X)
    if form is sp.csc_matrix:
        why = gene_facts(read, "X_pca", D)["no_genes"]
        assert why == "X is stored by genes on disk"
        return
    a, b = (tl.interpolate(fit(c), time=0.5) for c in (read, adata))
    np.testing.assert_allclose(a.X, b.X)
    assert list(a.var_names) == list(b.var_names)
