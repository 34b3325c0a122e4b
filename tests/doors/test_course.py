"""From an AnnData to a time course: the right cells, in the right order, and nothing written."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from cellflow import pp

LABELS = np.array(["day 10", "day 2", "day 2", "day 1", "day 10", "day 1", "day 10"])


def make(x=None, *, labels=LABELS, dtype=np.float32, **obs):
    """Seven cells of three days, out of order; row k of X_pca is k, k + ½, k + ¼."""
    n = len(labels)
    rep = (np.arange(n)[:, None] + np.array([0.0, 0.5, 0.25])).astype(dtype)
    frame = pd.DataFrame({"day": labels, **obs}, index=[f"c{k}" for k in range(n)])
    return anndata.AnnData(x, obs=frame, obsm={"X_pca": rep})


def snapshot_values(course):
    return [s.x.numpy() for s in course.snapshots]


def test_cells_are_grouped_by_time_in_their_own_order():
    adata = make()
    course, index = pp.course(adata, time_key="day")
    assert course.times == (1.0, 2.0, 10.0)
    assert course.unit == "day"
    assert [rows.tolist() for rows in index.rows] == [[3, 5], [1, 2], [0, 4, 6]]
    assert [names.tolist() for names in index.obs_names] == [
        ["c3", "c5"],
        ["c1", "c2"],
        ["c0", "c4", "c6"],
    ]
    for values, rows in zip(snapshot_values(course), index.rows, strict=True):
        np.testing.assert_array_equal(values, adata.obsm["X_pca"][rows])
    assert index.use_rep == "X_pca"
    assert "day 10" in str(index.table)


def test_order_of_cells_in_the_file_changes_no_snapshot():
    adata = make()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    course, _ = pp.course(adata, time_key="day")
    shuffled, index = pp.course(adata[order].copy(), time_key="day")
    for a, b, names in zip(course.snapshots, shuffled.snapshots, index.obs_names, strict=True):
        torch.testing.assert_close(a.x, b.x[np.argsort(names)], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (np.float32, torch.float32),
        (np.float64, torch.float64),
        (np.float16, torch.float32),
        (np.int64, torch.float32),
        (np.uint8, torch.float32),
    ],
)
def test_dtype_is_kept_or_becomes_float32(stored, read):
    course, _ = pp.course(make(dtype=stored), time_key="day")
    assert course.x.dtype == read
    forced, _ = pp.course(make(dtype=stored), time_key="day", dtype=torch.float64)
    assert forced.x.dtype == torch.float64
    assert forced.snapshots[0].mass.dtype == torch.float64


def test_first_dimensions_only():
    course, _ = pp.course(make(), time_key="day", n_dims=2)
    assert course.dim == 2
    np.testing.assert_array_equal(course.snapshots[0].x, [[3.0, 3.5], [5.0, 5.5]])
    with pytest.raises(ValueError, match=r"`n_dims`: got 4, expected at most 3.*obsm\['X_pca'\]"):
        pp.course(make(), time_key="day", n_dims=4)
    with pytest.raises(ValueError, match="`n_dims`: got 0"):
        pp.course(make(), time_key="day", n_dims=0)


def expression():
    return np.random.default_rng(1).poisson(1.0, size=(7, 5)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.array, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("where", ["memory", "backed", "view", "backed view"])
def test_expression_dense_sparse_backed_and_views(tmp_path, kind, where):
    x = expression()
    adata = make(kind(x))
    if "backed" in where:
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    keep = np.array([0, 1, 2, 4, 6])
    if "view" in where:
        adata, x = adata[keep], x[keep]
    course, index = pp.course(adata, time_key="day", use_rep="X", n_dims=4)
    for values, rows in zip(snapshot_values(course), index.rows, strict=True):
        np.testing.assert_array_equal(values, x[rows, :4])
    if adata.isbacked:
        adata.file.close()


@pytest.mark.parametrize("kind", [sp.csr_matrix, pd.DataFrame])
def test_representation_may_be_sparse_or_a_frame(kind):
    adata = make()
    rep = adata.obsm["X_pca"]
    index = {"index": adata.obs_names, "columns": list("abc")} if kind is pd.DataFrame else {}
    adata.obsm["other"] = kind(rep, **index)
    course, _ = pp.course(adata, time_key="day", use_rep="other")
    reference, _ = pp.course(adata, time_key="day")
    torch.testing.assert_close(course.x, reference.x, rtol=0, atol=0)


def test_view_gives_the_same_as_its_copy():
    view = make()[[0, 1, 2, 4]]
    course, index = pp.course(view, time_key="day")
    copied, _ = pp.course(view.copy(), time_key="day")
    torch.testing.assert_close(course.x, copied.x, rtol=0, atol=0)
    assert index.obs_names[0].tolist() == ["c1", "c2"]
    assert view.is_view


def test_short_name_of_a_representation():
    _, index = pp.course(make(), time_key="day", use_rep="pca")
    assert index.use_rep == "X_pca"


def test_masses_and_labels_follow_their_cells():
    adata = make(mass=np.arange(1, 8), kind=pd.Categorical(list("abababa")))
    course, index = pp.course(adata, time_key="day", mass_key="mass", label_key="kind")
    for snapshot, rows in zip(course.snapshots, index.rows, strict=True):
        np.testing.assert_array_equal(snapshot.mass, rows + 1)
        assert list(snapshot.labels) == ["ab"[row % 2] for row in rows]


def test_cells_without_a_time_are_left_out_on_request():
    labels = LABELS.astype(object)
    labels[4] = None
    adata = make(labels=labels, mass=[1, 1, 1, 1, np.nan, 1, 1])
    adata.obsm["X_pca"][4] = np.nan  # a cell that is left out may be broken
    with pytest.raises(ValueError, match=r"`obs\['day'\]`: got 1 of 7 cells without a time label"):
        pp.course(adata, time_key="day")
    course, index = pp.course(adata, time_key="day", missing="drop", mass_key="mass")
    assert [rows.tolist() for rows in index.rows] == [[3, 5], [1, 2], [0, 6]]
    assert len(course.x) == 6
    assert index.table.n_missing == 1


def test_unused_categories_make_no_snapshot():
    labels = pd.Categorical(LABELS, categories=["day 99", "day 10", "day 2", "day 1"])
    course, _ = pp.course(make(labels=labels), time_key="day")
    assert course.times == (1.0, 2.0, 10.0)


def test_time_map_and_unit():
    merged, _ = pp.course(
        make(), time_key="day", time_map={"day 1": 0.0, "day 2": 0.0, "day 10": 8.0}
    )
    assert merged.times == (0.0, 8.0)
    assert len(merged.snapshots[0]) == 4
    hours, _ = pp.course(make(), time_key="day", unit="hour")
    assert (hours.times, hours.unit) == ((24.0, 48.0, 240.0), "hour")


def test_course_leaves_the_anndata_alone_and_shares_no_memory():
    adata = make(sp.csr_matrix(expression()), mass=np.ones(7))
    before = adata.copy()
    course, _ = pp.course(adata, time_key="day", mass_key="mass")
    in_x, _ = pp.course(adata, time_key="day", use_rep="X")
    for snapshot in (*course.snapshots, *in_x.snapshots):
        snapshot.x.zero_()
        snapshot.mass.zero_()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert list(adata.obsm) == ["X_pca"]
    assert not adata.uns


def test_course_names_unknown_keys():
    with pytest.raises(ValueError, match=r"`time_key`: got 'days'.*Did you mean 'day'"):
        pp.course(make(), time_key="days")
    with pytest.raises(ValueError, match=r"`use_rep`: got 'X_pcaa'.*Did you mean 'X_pca'"):
        pp.course(make(), time_key="day", use_rep="X_pcaa")
    with pytest.raises(ValueError, match=r"`mass_key`: got 'mass'"):
        pp.course(make(), time_key="day", mass_key="mass")
    adata = make(expression())
    del adata.obsm["X_pca"]
    with pytest.raises(ValueError, match=r"obsm has nothing.*Run scanpy.pp.pca\(adata\) first"):
        pp.course(adata, time_key="day")
    with pytest.raises(ValueError, match="no expression"):
        pp.course(make(), time_key="day", use_rep="X")


def test_too_few_times_or_cells():
    with pytest.raises(ValueError, match=r"got one time point, 3 day, expected at least two"):
        pp.course(make(labels=np.repeat("day 3", 7)), time_key="day")
    labels = np.array(["1", "1", "1", "2", "3", "3", "3"])
    with pytest.raises(ValueError, match=r"got 1 cell at time 2, expected at least 2.*time_map"):
        pp.course(make(labels=labels), time_key="day")
    labels = np.array(["early", "early", "1", "1", "1", "1", "1"])
    with pytest.raises(ValueError, match=r"`obs\['day'\]`: got label\(s\) 'early'.*time_map="):
        pp.course(make(labels=labels), time_key="day")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_states_name_their_cell(value):
    adata = make()
    adata.obsm["X_pca"][4, 1] = value
    with pytest.raises(ValueError, match=r"obsm\['X_pca'\]`: got NaN or infinite.*first: 'c4'"):
        pp.course(adata, time_key="day")


def test_broken_masses_and_labels_name_their_cell():
    for bad in (np.nan, 0.0, -1.0, np.inf):
        adata = make(mass=[1, 1, 1, bad, 1, 1, 1])
        with pytest.raises(ValueError, match=r"`obs\['mass'\]`: got 1 cells.*first: 'c3'"):
            pp.course(adata, time_key="day", mass_key="mass")
    with pytest.raises(TypeError, match=r"`obs\['mass'\]`: got dtype"):
        pp.course(make(mass=list("abcdefg")), time_key="day", mass_key="mass")
    adata = make(kind=pd.Categorical(["a", None, "a", "a", "b", "b", "b"]))
    with pytest.raises(ValueError, match=r"`obs\['kind'\]`: got 1 cells without a label"):
        pp.course(adata, time_key="day", label_key="kind")


def test_course_refuses_what_is_no_anndata():
    with pytest.raises(TypeError, match=r"got ndarray, expected an AnnData.*from_arrays"):
        pp.course(np.zeros((3, 2)), time_key="day")
    adata = make()
    adata.obsm["text"] = np.full((7, 2), "a")
    with pytest.raises(TypeError, match=r"obsm\['text'\]`: got dtype <U1, expected numbers"):
        pp.course(adata, time_key="day", use_rep="text")
