"""What is said of a course before a fit: known answers, and refusals."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from cellflow import pp
from cellflow.pp.check import FIXED, PER_PAIR, PER_STATE, Change

KEYS = {"time_key": "day", "label_key": "type", "batch_key": "batch"}


def cells(n: int = 60, days=(0.0, 1.0, 3.0), g: int = 30) -> anndata.AnnData:
    """`n` cells of each day, of two types and two batches in every one; PCA by scanpy."""
    rng = np.random.default_rng(0)
    day = np.repeat(days, n)
    x = rng.normal(size=(len(day), g)) + 3.0 * day[:, None] * rng.normal(size=g)
    number = np.arange(len(day))
    obs = pd.DataFrame(
        {
            "day": day,
            "type": np.where(number % 3, "stem", "nerve"),
            "batch": pd.Categorical(np.where(number % 2, "a", "b")),
        },
        index=[f"c{i}" for i in number],
    )
    out = anndata.AnnData(x, obs=obs)
    sc.pp.pca(out, n_comps=10)
    return out


def with_counts(table: dict[str, list[int]], key: str) -> anndata.AnnData:
    """Cells on days 0, 1, …, as many of each label (rows of the `table`) as it says."""
    parts = [
        (label, day) for label, row in table.items() for day, n in enumerate(row) for _ in [0] * n
    ]
    obs = pd.DataFrame(parts, columns=[key, "day"], index=[f"c{i}" for i in range(len(parts))])
    x = np.random.default_rng(0).normal(size=(len(parts), 3))
    return anndata.AnnData(obs=obs, obsm={"X_pca": x})


def test_nothing_stands_out_in_a_clean_course_which_is_left_as_it_is() -> None:
    adata = cells()
    before = adata.copy()
    found = pp.check(adata, **KEYS)
    assert found.warnings == ()
    assert found.times.times == (0.0, 1.0, 3.0)
    assert found.times.counts == (60, 60, 60)
    assert found.groups.to_dict("list") == {t: [20, 40] for t in (0.0, 1.0, 3.0)}
    assert found.batches.to_dict("list") == {t: [30, 30] for t in (0.0, 1.0, 3.0)}
    assert (found.use_rep, found.n_dims, len(found.duplicated)) == ("X_pca", 10, 0)
    assert (found.vanishing, found.appearing, found.confounded) == ((), (), ())
    text = str(found)
    assert "label  time (day)  cells" in text
    assert "X_pca, 10 dimensions: 10 components, zero-centred, loadings of 30 genes, " in text
    assert text.endswith("nothing stands out")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.memory = 0.0  # type: ignore[misc]
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == list(before.uns)


def test_groups_that_vanish_and_appear() -> None:
    """Those of few cells are found too, but chance may explain them: no sentence."""
    adata = with_counts(
        {"all": [50, 100, 50], "first": [50, 0, 0], "late": [0, 0, 50], "rare": [1, 0, 1]}, "type"
    )
    found = pp.check(adata, time_key="day", label_key="type")
    first, rare = found.vanishing
    assert (first.group, first.present, first.absent, first.n_cells) == ("first", 0.0, 1.0, 50)
    assert first.expected == pytest.approx(50 * 100 / 101)
    assert rare == Change("rare", 0.0, 1.0, 1, pytest.approx(100 / 101))
    assert [(c.group, c.present, c.absent) for c in found.appearing] == [
        ("late", 2.0, 1.0),
        ("rare", 2.0, 1.0),
    ]
    groups = [sentence for sentence in found.warnings if "share promises" in sentence]
    assert groups == [
        "'first' has 50 cells at time 0 but none at 1, where its share promises 50.",
        "'late' has 50 cells at time 2 but none at 1, where its share promises 50.",
    ]
    assert all(f"- {sentence}" in str(found) for sentence in found.warnings)


@pytest.mark.parametrize(
    ("table", "steps", "rest"),
    [
        ({"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 0, 9]}, "0 → 1, 1 → 2", "there."),
        ({"a": [9, 9, 0], "b": [0, 0, 9]}, "1 → 2", "there."),
        (
            {"a": [9, 0], "b": [9, 0], "c": [0, 9], "d": [0, 9]},
            "0 → 1",
            "there; batches of one time show how large it is.",
        ),
        ({"a": [9, 9, 9]}, "", ""),
        ({"a": [9, 0, 9], "b": [0, 9, 9]}, "", ""),
    ],
    ids=["one each", "a change", "replicates", "one batch", "joined by the last"],
)
def test_batches_that_change_with_time(table, steps, rest) -> None:
    found = pp.check(with_counts(table, "batch"), time_key="day", batch_key="batch")
    sentences = [s for s in found.warnings if "batches" in s]
    want = f"No batches are shared over {steps}: their effect looks like movement {rest}"
    assert sentences == ([want] if steps else [])
    assert found.batches.to_numpy().tolist() == list(table.values())


@pytest.mark.parametrize("seed", range(20))
def test_a_step_is_confounded_where_least_squares_cannot_estimate_it(seed: int) -> None:
    """By the rank of the additive design of batches and times, with and without the contrast."""
    table = 3 * (np.random.default_rng(seed).random((4, 5)) < 0.3)
    table[seed % 4, table.sum(0) == 0] = 3  # each day has cells
    names = {f"batch {k}": row.tolist() for k, row in enumerate(table)}
    found = pp.check(with_counts(names, "batch"), time_key="day", batch_key="batch")
    b, t = np.nonzero(table)
    design = np.hstack([np.eye(4)[b], np.eye(5)[t]])
    want = []
    for k in range(4):
        contrast = np.concatenate([np.zeros(4), np.eye(5)[k + 1] - np.eye(5)[k]])
        rank = np.linalg.matrix_rank
        if rank(np.vstack([design, contrast])) > rank(design):
            want.append((float(k), float(k + 1)))
    assert list(found.confounded) == want


def test_cells_that_are_there_twice_are_found_in_any_order() -> None:
    adata = cells()
    x = adata.obsm["X_pca"]
    x[7] = x[3]  # of the same day
    x[100] = x[3]  # of another one
    x[30], x[20] = 0.0, -0.0
    found = pp.check(adata, time_key="day")
    assert found.duplicated.tolist() == [7, 30, 100]
    assert found.warnings[0] == (
        "3 cells repeat the state of another, 2 of them one of another time (first: 'c7'): "
        "drop them."
    )
    order = np.random.default_rng(1).permutation(adata.n_obs)
    again = pp.check(adata[order].copy(), time_key="day")
    assert len(again.duplicated) == 3
    keep = np.delete(np.arange(adata.n_obs), found.duplicated)
    assert len(pp.check(adata[keep].copy(), time_key="day").duplicated) == 0


def test_the_pca_is_what_scanpy_wrote_down() -> None:
    adata = cells()
    source = pp.check(adata, time_key="day").pca
    np.testing.assert_allclose(source.variance, adata.uns["pca"]["variance"])
    np.testing.assert_allclose(source.ratio, adata.uns["pca"]["variance_ratio"])
    assert (source.zero_centred, source.n_genes, source.same_cells) == (True, 30, True)
    adata.var["chosen"] = np.arange(30) < 20
    pp.pca(adata, n_components=4, genes="chosen")
    source = pp.check(adata, time_key="day").pca
    assert (len(source.variance), source.n_genes, source.same_cells) == (4, 20, True)
    sc.pp.pca(adata, n_comps=3, key_added="pca_three")
    source = pp.check(adata, time_key="day", use_rep="pca_three").pca
    assert (len(source.variance), source.n_genes, source.same_cells) == (3, 30, True)


@pytest.mark.parametrize("change", ["cells removed", "scaled", "shifted"])
def test_a_representation_that_is_no_longer_that_of_the_pca(change: str) -> None:
    adata = cells()
    if change == "cells removed":
        adata = adata[adata.obs["day"] > 0].copy()
    else:
        x = adata.obsm["X_pca"]
        adata.obsm["X_pca"] = x * 1.2 if change == "scaled" else x + x.std(0)
    found = pp.check(adata, time_key="day")
    assert found.pca.same_cells is False
    assert found.warnings == (
        "'X_pca' of these cells is not what uns describes: cells were removed, or values "
        "corrected, since the PCA.",
    )


def test_a_pca_without_centring_or_of_unknown_origin() -> None:
    adata = cells()
    adata.X += 5.0
    sc.pp.pca(adata, n_comps=5, zero_center=False)
    found = pp.check(adata, time_key="day")
    assert found.pca.zero_centred is False
    assert found.warnings == (
        "'X_pca' was not zero-centred: its first component is mostly the mean.",
    )
    del adata.uns["pca"], adata.varm["PCs"]
    found = pp.check(adata, time_key="day")
    assert found.warnings == (
        "There are no loadings of 'X_pca' in varm: predictions stay without genes.",
    )
    assert (found.suggested_dims, found.pca.same_cells) == (None, None)
    assert "source not written down\nsuggested dimensions: unknown" in str(found)
    adata.obsm["X_latent"] = adata.obsm["X_pca"]
    assert pp.check(adata, time_key="day", use_rep="latent").warnings == ()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_dimensions_that_stand_out_are_suggested(k: int, scale: float) -> None:
    """In any unit, and whatever their own differences."""
    adata = cells()
    variance = scale * np.r_[np.linspace(90.0, 50.0, k), np.linspace(1.1, 0.9, 20)]
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, k + 20))
    adata.uns["pca"]["variance"] = variance
    found = pp.check(adata, time_key="day")
    assert found.suggested_dims == k
    assert f"suggested dimensions: {k}, by variance" in str(found)


def test_memory_is_that_of_states_and_of_the_largest_plan() -> None:
    adata = cells(n=60)
    for kind, size in ((np.float32, 4), (np.float64, 8)):
        adata.obsm["X_pca"] = adata.obsm["X_pca"].astype(kind)
        memory = pp.check(adata, time_key="day", n_dims=6).memory
        assert memory == pytest.approx(FIXED + PER_STATE * 180 * 6 * size + PER_PAIR * 60 * 60)


def test_times_are_read_as_by_a_fit() -> None:
    adata = cells()
    adata.obs["hour"] = adata.obs["day"]
    assert pp.check(adata, time_key="hour").times.unit == "hour"
    assert pp.check(adata, time_key="hour", unit="week").times.unit == "week"
    adata.obs.loc["c0", "hour"] = np.nan
    found = pp.check(adata, time_key="hour", missing="drop", label_key="type")
    assert (found.times.n_missing, int(found.groups.to_numpy().sum())) == (1, 179)
    named = pp.check(adata, time_key="type", time_map={"stem": 0, "nerve": 4})
    assert named.times.times == (0.0, 4.0)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"time_key": "dya"}, "`time_key`: got 'dya', expected one of"),
        (None, {"label_key": "typ"}, "`label_key`: got 'typ', expected one of"),
        (None, {"batch_key": "bach"}, "`batch_key`: got 'bach', expected one of"),
        (None, {"use_rep": "X_umap"}, "`use_rep`: got 'X_umap'"),
        (None, {"n_dims": 11}, "`n_dims`: got 11, expected at most 10"),
        ("state", {}, r"obsm\['X_pca'\]`: got NaN or infinite values in 1 cells"),
        ("time", {}, "1 of 180 cells without a time label"),
        ("batch", {}, r"`obs\['batch'\]`: got 1 cells without a label"),
        ("empty", {}, "no time label in 0 cells"),
        ("one day", {}, "got one time point, 0 day, expected at least two"),
    ],
)
def test_what_cannot_be_checked_is_one_error(spoil, options, message) -> None:
    adata = cells()
    if spoil == "state":
        adata.obsm["X_pca"][4, 2] = np.nan
    elif spoil == "time":
        adata.obs.loc["c4", "day"] = np.nan
    elif spoil == "batch":
        adata.obs.loc["c4", "batch"] = np.nan
    elif spoil == "empty":
        adata = adata[:0].copy()
    elif spoil == "one day":
        adata = adata[:60].copy()
    with pytest.raises(ValueError, match=message):
        pp.check(adata, **(KEYS | options))
    with pytest.raises(TypeError, match="`adata`: got DataFrame, expected an AnnData"):
        pp.check(adata.obs, **KEYS)


def test_expression_is_checked_in_memory_and_refused_on_disk(tmp_path) -> None:
    adata = cells()
    found = pp.check(adata, time_key="day", use_rep="X")
    assert (found.n_dims, found.warnings, found.suggested_dims) == (30, (), None)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert pp.check(backed, time_key="day").warnings == ()
    with pytest.raises(ValueError, match="`use_rep`: got 'X', expression on disk"):
        pp.check(backed, time_key="day", use_rep="X")
    backed.file.close()
