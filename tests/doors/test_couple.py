"""Coupling at the AnnData door: who descends from whom, by name, by label and in files."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import cellflow as cf
from cellflow import couplings
from cli_files import cellflow_


def cells(n: int = 40) -> anndata.AnnData:
    """Two clusters that do not move; rows of the time points are mixed."""
    rng = np.random.default_rng(0)
    day, kind = rng.permuted(np.repeat([0, 1, 3], n)), np.empty(3 * n, dtype=object)
    for time in (0, 1, 3):
        kind[day == time] = np.repeat(["a", "b"], n // 2)
    x = rng.normal(size=(3 * n, 3)) * 0.1
    x[:, 0] += np.where(kind == "a", 0.0, 5.0)
    obs = pd.DataFrame({"day": pd.Categorical(day), "kind": pd.Categorical(kind)})
    obs.index = [f"c{i}" for i in range(3 * n)]
    return anndata.AnnData(obs=obs, obsm={"X_pca": x.astype(np.float32)})


def couple(adata: anndata.AnnData, **options):
    return cf.tl.couple(adata, time_key="day", progress=False, **options)


def test_descendants_stay_in_their_cluster_and_are_named_by_cell() -> None:
    adata = cells()
    moves = couple(adata)
    at = {t: adata.obs["day"] == t for t in (0, 1, 3)}
    pushed = moves.push(adata.obs["kind"] == "a", 0, 3)
    assert list(pushed.index) == list(adata.obs_names[at[3]])
    expected = (adata.obs["kind"][at[3]] == "a") / 40
    np.testing.assert_allclose(pushed, expected)
    adata.obs["descendants"] = pushed
    assert adata.obs["descendants"].notna().equals(at[3])
    pulled = moves.pull((adata.obs["kind"] == "b").to_numpy(), 1, 3)
    assert pulled.sum() == pytest.approx(0.5)
    assert pulled[adata.obs["kind"][at[1]] == "a"].sum() == 0
    table = moves.table(adata.obs["kind"], 0, 3)
    pd.testing.assert_frame_equal(
        table, pd.DataFrame(np.eye(2), index=["a", "b"], columns=["a", "b"]), check_names=False
    )
    fates = moves.descendants(adata.obs["kind"], "0", "3")
    np.testing.assert_allclose(fates["a"], adata.obs["kind"][at[0]] == "a")
    by_name = moves.ancestors("kind", 0, 1)
    assert by_name.equals(moves.ancestors(adata.obs["kind"], 0, 1))
    with pytest.raises(ValueError, match="`labels`: got 'kinds', expected one of .*'kind'"):
        moves.table("kinds", 0, 1)
    origins = moves.ancestors(adata.obs["kind"], 0, 1)
    np.testing.assert_allclose(origins["b"], adata.obs["kind"][at[1]] == "b")


def test_masses_may_be_given_for_all_cells_for_one_time_or_by_name() -> None:
    adata = cells()
    moves = couple(adata, coupling="entropic", sigma=1.0)
    first = (adata.obs["day"] == 0).to_numpy()
    mass = pd.Series(np.arange(120.0), index=adata.obs_names)
    whole = moves.push(mass, 0, 1)
    np.testing.assert_array_equal(whole, moves.push(mass.to_numpy()[first], 0, 1))
    np.testing.assert_array_equal(
        whole, moves.push(mass[first].sample(frac=1, random_state=0), 0, 1)
    )
    np.testing.assert_array_equal(whole, moves.push(mass.sample(frac=1, random_state=0), 0, 1))
    np.testing.assert_array_equal(whole, moves.push(mass.reset_index(drop=True), 0, 1))
    both = moves.push(pd.DataFrame({"one": mass, "two": 2 * mass}), 0, 1)
    np.testing.assert_allclose(both["two"], 2 * whole)
    assert whole.sum() == pytest.approx(mass[first].sum())


def test_tables_of_masses_fates_and_origins() -> None:
    adata = cells()
    moves = couple(adata, coupling="entropic", sigma=3.0)
    mass = moves.table(adata.obs["kind"], 0, 3, normalize=None)
    joint = moves.transitions.matrix(0.0, 3.0).toarray() / 40
    rows = (adata.obs["kind"][adata.obs["day"] == 0] == "a").to_numpy()
    cols = (adata.obs["kind"][adata.obs["day"] == 3] == "b").to_numpy()
    assert mass.loc["a", "b"] == pytest.approx(joint[rows][:, cols].sum())
    assert mass.to_numpy().sum() == pytest.approx(1.0)
    np.testing.assert_allclose(moves.table(adata.obs["kind"], 0, 3).sum(1), 1.0)
    np.testing.assert_allclose(moves.table(adata.obs["kind"], 0, 3, normalize="end").sum(0), 1.0)


def test_pushing_in_proportion_to_mass_is_the_plan_itself() -> None:
    # What moscot's push does with the masses of the cells: multiply the plan.
    adata = cells()
    adata.obs["mass"] = np.random.default_rng(1).uniform(0.5, 2.0, len(adata))
    moves = couple(adata, coupling=couplings.Entropic(epsilon=1.0), mass_key="mass")
    plan = next(iter(moves.tmaps().values()))
    subset = (adata.obs["kind"] == "a") & (adata.obs["day"] == 0)
    direct = plan[subset[plan.obs_names].to_numpy()].X.sum(0)
    np.testing.assert_allclose(moves.push(subset, 0, 1), np.asarray(direct).ravel())


def test_descendants_weigh_by_growth() -> None:
    adata = cells()
    adata.obs["rate"] = np.where(adata.obs["kind"] == "a", 1.0, -1.0)
    moves = couple(adata, coupling="unbalanced", growth_key="rate")
    fates = moves.table(adata.obs["kind"], 0, 1, normalize=None)
    assert fates.loc["a"].sum() > fates.loc["b"].sum()
    assert fates.to_numpy().sum() == pytest.approx(1.0)
    np.testing.assert_allclose(fates.sum(0), 0.5, atol=1e-6)


def test_maps_are_what_cellrank_reads(tmp_path) -> None:
    adata = cells()
    moves = couple(adata)
    maps = moves.tmaps()
    assert list(maps) == [(0, 1), (1, 3)]
    for (start, end), tmap in maps.items():
        assert isinstance(tmap.X, sparse.csr_matrix)
        assert list(tmap.obs_names) == list(adata.obs_names[adata.obs["day"] == start])
        assert list(tmap.var_names) == list(adata.obs_names[adata.obs["day"] == end])
        assert tmap.X.sum() == pytest.approx(1.0)
        assert {start, end} <= set(adata.obs["day"].cat.categories)
    files = moves.save(tmp_path / "maps")
    assert [f.name for f in files] == ["tmaps_0_1.h5ad", "tmaps_1_3.h5ad"]
    stored = anndata.read_h5ad(files[0])
    assert (stored.X != maps[0, 1].X).nnz == 0


def test_large_time_points_are_coupled_without_a_dense_plan() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"day": np.repeat([0, 1], 6000)}, index=[f"c{i}" for i in range(12000)])
    adata = anndata.AnnData(obs=obs, obsm={"X_pca": rng.normal(size=(12000, 2))})
    moves = couple(adata, coupling=couplings.Independent())
    assert len(moves.transitions.plans[0].mass) <= 32 * 6000 + 12000
    np.testing.assert_allclose(moves.push(np.full(6000, 1 / 6000), 0, 1), 1 / 6000)


def test_auto_coupling_is_exact_up_to_a_size_and_global_beyond(monkeypatch) -> None:
    asked = []
    for name in ("Exact", "Hierarchical"):
        solver = getattr(couplings, name)()

        def solve(source, target, name=name, solver=solver):
            asked.append(name)
            return solver(source, target)

        monkeypatch.setattr(sys.modules["cellflow.tl.couple"], name, lambda solve=solve: solve)
    couple(cells())
    monkeypatch.setattr(sys.modules["cellflow.tl.couple"], "EXACT_CELLS", 30)
    couple(cells())
    assert asked == ["Exact", "Exact", "Hierarchical", "Hierarchical"]


@pytest.mark.parametrize("name", ["auto", *couplings.COUPLINGS])
def test_a_coupling_that_needs_no_settings_is_known_by_its_name(name) -> None:
    if name in ("given", "partial"):  # a plan, a fraction
        with pytest.raises(ValueError, match=f"`coupling`: got {name!r}, expected one of 'auto'"):
            couple(cells(), coupling=name)
    else:
        assert len(couple(cells(), coupling=name).transitions.plans) == 2


def test_components_of_expression_and_whitening_are_what_distances_are_measured_in() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"day": np.repeat([0, 1], 30)}, index=[f"c{i}" for i in range(60)])
    x = rng.normal(size=(60, 2)) * [100.0, 1.0]
    adata = anndata.AnnData(X=x, obs=obs, obsm={"X_pca": x})
    raw, white = (couple(adata, whiten=w).transitions.plans[0] for w in (False, True))
    assert not torch.equal(raw.cols, white.cols)
    one = couple(adata, use_rep="X", n_dims=1).transitions.plans[0]
    order = np.argsort(x[:30, 0])
    ranks = np.argsort(np.argsort(x[30:, 0]))
    assert np.mean(np.diff(ranks[one.cols.numpy()[np.argsort(one.rows.numpy())][order]]) > 0) > 0.9


def test_coupled_refuses_unknown_times_and_values_that_do_not_fit(tmp_path) -> None:
    adata = cells()
    moves = couple(adata)
    with pytest.raises(ValueError, match=r"`start`: got 2, expected one of 0, 1, 3, or a label"):
        moves.push(adata.obs["kind"] == "a", 2, 3)
    with pytest.raises(ValueError, match=r"one for each of 120 cells, or of 40 at time 0"):
        moves.push(np.ones(41), 0, 1)
    with pytest.raises(ValueError, match="40 of 40 cells missing"):
        moves.push((adata.obs["kind"] == "a")[adata.obs["day"] == 1], 0, 1)
    with pytest.raises(ValueError, match="120 cells without a label|40 cells without a label"):
        moves.table(np.full(120, None), 0, 1)
    with pytest.raises(ValueError, match="normalize"):
        moves.table(adata.obs["kind"], 0, 1, normalize="rows")
    with pytest.raises(ValueError, match="coupling"):
        couple(adata, coupling="optimal")
    with pytest.raises(TypeError, match=r"a Coupling such as Exact\(\)"):
        couple(adata, coupling=3)
    with pytest.raises(TypeError, match=r"`coupling`: got the class Exact, expected a Coupling"):
        couple(adata, coupling=couplings.Exact)
    with pytest.raises(ValueError, match=r"Give sigma to the coupling itself"):
        couple(adata, coupling="exact", sigma=1.0)
    adata.obs["day"] = adata.obs["day"].astype(str).radd("d_").astype("category")
    with pytest.raises(ValueError, match="Rename them"):
        couple(adata, time_map={"d_0": 0, "d_1": 1, "d_3": 3}).save(tmp_path)
    with pytest.raises(ValueError, match="one label for each time"):
        couple(adata, time_map={"d_0": 0, "d_1": 1, "d_3": 1}).tmaps()


def test_couple_command_writes_maps_and_prints_transitions(tmp_path) -> None:
    file = tmp_path / "cells.h5ad"
    cells().write_h5ad(file)
    words = ["couple", file, "--time-key", "day", "-q", "--label-key"]
    out = cellflow_(*words, "kind", "--out", tmp_path / "maps")
    assert out.exit_code == 0, out.output
    assert "0 → 1: 40 × 40 cells, 40 pairs" in out.stdout
    assert sorted(f.name for f in (tmp_path / "maps").iterdir()) == [
        "tmaps_0_1.h5ad",
        "tmaps_1_3.h5ad",
    ]
    assert "kind, from 1 (rows) to 3" in out.stdout
    assert out.stderr == ""
    wrong = cellflow_(*words, "kin", "--out", tmp_path / "b")
    assert wrong.exit_code == 2
    assert "--label-key" in wrong.stderr
