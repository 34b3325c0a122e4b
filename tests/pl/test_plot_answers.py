"""Figures of fates, compositions and transitions draw what the tables say."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch, Rectangle

import cellflow as cf
from cellflow import pl, tl
from cellflow.answers.composition import geometric

NAMES = ("a", "b", "c")
COLORS = ["#102030", "#ff0000", "#405060"]
#: Observed shares of the three labels by day.
SHARES = {0.0: (0.5, 0.3, 0.2), 2.0: (0.4, 0.4, 0.2), 4.0: (0.2, 0.8, 0.0)}


def rows(time: float, source: str, shares, half: float = np.nan) -> pd.DataFrame:
    mean = np.asarray(shares, dtype=float)
    columns = {"time": time, "label": NAMES, "source": source, "share": mean}
    return pd.DataFrame(columns | {"low": mean - half, "high": mean + half})


def between(first: float, last: float) -> np.ndarray:
    a, b = (torch.tensor(SHARES[t], dtype=torch.float64) for t in (first, last))
    return geometric(a, b, 0.5).numpy()


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    kinds = pd.Categorical(np.tile(NAMES, 20))
    out = AnnData(
        obs=pd.DataFrame({"kind": kinds}, index=[f"c{i}" for i in range(60)]),
        obsm={"X_umap": rng.normal(size=(60, 2))},
    )
    fates = rng.dirichlet(np.ones(3), 60)
    fates[:7] = np.nan
    out.obsm["fates"] = pd.DataFrame(fates, out.obs_names, NAMES)
    parts = [rows(time, "observed", shares, 0.05) for time, shares in SHARES.items()]
    parts += [rows(1.0, "predicted", (0.6, 0.3, 0.1), 0.02), rows(1.0, "geometric", between(0, 2))]
    parts += [rows(2.0, "held out", (0.3, 0.5, 0.2), 0.02), rows(2.0, "geometric", between(0, 4))]
    out.uns["composition"] = pd.concat(parts, ignore_index=True)
    out.uns["composition_fit"] = {"label_key": "kind", "unit": "day"}
    out.uns["kind_colors"] = COLORS
    return out


@pytest.fixture
def table() -> pd.DataFrame:
    flow = np.array([[0.3, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0], [0.2, 0.0, 0.3, 0.1]])
    return pd.DataFrame(
        flow, pd.Index(NAMES, name="day 0"), pd.Index(["a", "b", "c", "d"], name="day 4")
    )


def test_a_panel_for_each_fate_coloured_by_its_probability(adata):
    axes = pl.fates(adata)
    assert [ax.get_title() for ax in axes] == list(NAMES)
    xy, fates = adata.obsm["X_umap"], adata.obsm["fates"]
    for ax, name in zip(axes, NAMES, strict=True):
        grey, colored = ax.collections
        np.testing.assert_allclose(np.asarray(grey.get_offsets()), xy[:7])
        assert to_hex(grey.get_facecolors()[0]) == "#b8b8b8"
        order = 7 + np.argsort(fates[name].to_numpy()[7:])
        np.testing.assert_allclose(colored.get_array(), fates[name].iloc[order])
        np.testing.assert_allclose(np.asarray(colored.get_offsets()), xy[order])
        assert (colored.norm.vmin, colored.norm.vmax) == (0, 1)
    assert [len(ax.child_axes) for ax in axes] == [0, 0, 1]  # the colour bar


def test_figures_are_on_the_given_axes_and_leave_the_data_alone(adata, table):
    before, mass = adata.copy(), table.copy()
    _, (first, second, third) = plt.subplots(3, 3)
    assert list(pl.fates(adata, ax=first)) == list(first)
    assert list(pl.composition(adata, ax=second)) == list(second)
    assert pl.transitions(table, ax=third[0]) is third[0]
    for ax in (*first, *second, third[0]):
        assert ax.has_data()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.obsm["fates"], before.obsm["fates"])
    pd.testing.assert_frame_equal(adata.uns["composition"], before.uns["composition"])
    assert adata.uns.keys() == before.uns.keys()
    pd.testing.assert_frame_equal(table, mass)


def test_some_fates_in_the_order_asked_for_on_given_axes(adata):
    _, given = plt.subplots(1, 2)
    axes = pl.fates(adata, groups=["c", "a"], size=9, ax=given)
    assert list(axes) == list(given)
    assert [ax.get_title() for ax in axes] == ["c", "a"]
    assert axes[0].collections[1].get_sizes() == [9]
    (one,) = pl.fates(adata, groups="b")
    assert one.get_title() == "b"


@pytest.mark.parametrize(("n", "shape"), [(3, (1, 3)), (8, (2, 4)), (12, (3, 4)), (5, (2, 3))])
def test_many_fates_stand_in_rows(adata, n, shape):
    values = np.full((60, n), 1 / n)
    adata.obsm["fates"] = pd.DataFrame(values, adata.obs_names, [f"f{i}" for i in range(n)])
    axes = pl.fates(adata)
    assert len(axes) == len(axes[0].figure.axes) == n
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape
    axes[0].figure.canvas.draw()


def points(ax: Axes, marker: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = (one for one in ax.lines if one.get_marker() == marker)
    return line.get_xdata(orig=False), line.get_ydata(orig=False)


def test_shares_of_each_label_by_source(adata):
    axes = pl.composition(adata)
    assert [ax.get_title() for ax in axes] == list(NAMES)
    for k, ax in enumerate(axes):
        for marker, times, values in (
            ("o", list(SHARES), [s[k] for s in SHARES.values()]),
            ("D", [1.0], [(0.6, 0.3, 0.1)[k]]),
            ("s", [2.0], [(0.3, 0.5, 0.2)[k]]),
            ("_", [2.0], [between(0, 4)[k]]),
        ):
            x, y = points(ax, marker)
            np.testing.assert_allclose(x, times)
            np.testing.assert_allclose(y, values)
        x, y = ax.lines[0].get_data()
        for time, share in ((0, SHARES[0][k]), (1, between(0, 2)[k]), (4, SHARES[4][k])):
            np.testing.assert_allclose(np.interp(time, x, y), share, atol=1e-12)
        assert {to_hex(one.get_color()) for one in ax.lines} == {COLORS[k]}
        bars = ax.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose(bars[0][:, 1], SHARES[0][k] + np.array([-0.05, 0.05]))
        assert ax.get_xlabel() == "time (days)"
        assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1]
    (legend,) = axes[0].figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told[:3] == ["observed", "predicted", "held out"]
    axes[0].figure.canvas.draw()


def test_labels_of_a_composition_stand_in_the_order_of_their_column(adata):
    adata.obs["kind"] = adata.obs["kind"].cat.reorder_categories(["c", "a", "b"])
    axes = pl.composition(adata)
    assert [ax.get_title() for ax in axes] == ["c", "a", "b"]
    assert [to_hex(ax.lines[0].get_color()) for ax in axes] == COLORS


def test_a_composition_of_observed_shares_only_and_of_no_known_column(adata):
    shares = adata.uns["composition"]
    adata.uns["composition"] = shares[shares["source"] == "observed"]
    del adata.uns["composition_fit"]
    _, given = plt.subplots(1, 3)
    axes = pl.composition(adata, palette=["red", "lime", "blue"], ax=given)
    assert [to_hex(ax.lines[0].get_color()) for ax in axes] == ["#ff0000", "#00ff00", "#0000ff"]
    assert not axes[0].figure.legends
    assert len(axes[-1].get_legend().get_texts()) == 2


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_a_composition_of_a_fit_is_drawn_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"hour": np.repeat(["hour 0", "hour 1"], 40), "kind": np.tile([1, 2], 40)})
    obs.index = [f"c{i}" for i in range(80)]
    adata = AnnData(obs=obs, obsm={"X_pca": rng.normal(size=(80, 2)).astype(np.float32)})
    options = {"steps": 5, "label_key": "kind", "progress": False}
    fit = tl.fit(adata, time_key="hour", method=cf.OTCFM(), **options)
    tl.composition(adata, fit, progress=False)
    assert adata.uns["composition_fit"] == {"label_key": "kind", "unit": "hour"}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    axes = pl.composition(anndata.read_h5ad(tmp_path / "cells.h5ad"))
    assert [ax.get_title() for ax in axes] == ["1", "2"]
    assert axes[0].get_xlabel() == "time (hours)"
    np.testing.assert_allclose(points(axes[0], "o")[1], 0.5)


def heights(ax: Axes) -> dict[tuple[str, bool], float]:
    """Height of the block of each name, on the left or not."""
    names = [text.get_text() for text in ax.texts]
    blocks = [p for p in ax.patches if isinstance(p, Rectangle)]
    found = zip(names, blocks, strict=True)
    return {(name, block.get_x() < 0): block.get_height() for name, block in found}


def test_blocks_and_bands_are_as_large_as_masses(table):
    ax = pl.transitions(table)
    found = heights(ax)
    left, right = ({k[0]: v for k, v in found.items() if k[1] is side} for side in (True, False))
    assert left == pytest.approx({"a": 0.4, "c": 0.6})  # no row without mass
    assert right == pytest.approx({"a": 0.5, "c": 0.4, "d": 0.1})
    bands = [p for p in ax.patches if isinstance(p, PathPatch)]
    widths = [np.ptp(p.get_path().vertices[[0, 7], 1]) for p in bands]
    np.testing.assert_allclose(widths, [0.3, 0.1, 0.2, 0.3, 0.1])
    blocks = [p for p in ax.patches if isinstance(p, Rectangle)]
    inks = [to_hex(b.get_facecolor()) for b in blocks[:2]]
    assert [to_hex(b.get_facecolor()) for b in bands] == [inks[0]] * 2 + [inks[1]] * 3
    assert inks == [to_hex(blocks[2].get_facecolor()), to_hex(blocks[3].get_facecolor())]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["day 0", "day 4"]
    ax.figure.canvas.draw()


def test_bands_fill_their_blocks_and_no_more(table):
    """What leaves a block, and what comes to one, tiles it from its top."""
    ax = pl.transitions(table)
    bands = [p.get_path().vertices for p in ax.patches if isinstance(p, PathPatch)]
    for block in (p for p in ax.patches if isinstance(p, Rectangle)):
        low, high = block.get_y(), block.get_y() + block.get_height()
        start, end = (0, 7) if block.get_x() < 0 else (3, 4)  # its side of a band
        edges = np.array([(v[end, 1], v[start, 1]) for v in bands])
        mine = edges[(edges[:, 0] > low - 1e-9) & (edges[:, 1] < high + 1e-9)]
        mine = mine[mine[:, 0].argsort()]
        np.testing.assert_allclose([mine[0, 0], mine[-1, 1]], [low, high])
        np.testing.assert_allclose(mine[1:, 0], mine[:-1, 1])


@pytest.mark.parametrize("n", [3, 12, 30])
def test_names_never_overlap(n):
    """Blocks of tiny mass still have a line of text for themselves."""
    mass = 0.5 ** np.arange(n)
    labels = [f"type {k}" for k in range(n)]
    ax = pl.transitions(pd.DataFrame(np.diag(mass), labels, labels))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    for side in (boxes[:n], boxes[n:]):
        assert all(above.y0 >= below.y1 for above, below in pairwise(side))


def test_transitions_of_matched_cells_in_the_colours_of_their_column(adata):
    adata.obs["day"] = np.repeat([0.0, 4.0], 30)
    coupled = tl.couple(adata, time_key="day", use_rep="X_umap", progress=False)
    found = coupled.table("kind", 0, 4, normalize=None)
    assert (found.index.name, found.columns.name) == ("day 0", "day 4")
    ax = pl.transitions(found, adata, label_key="kind")
    blocks = [to_hex(p.get_facecolor()) for p in ax.patches if isinstance(p, Rectangle)]
    assert blocks == COLORS * 2
    assert heights(ax) == pytest.approx({(k, side): 1 / 3 for k in NAMES for side in (True, False)})


def without(adata: AnnData, where: str, key: str) -> AnnData:
    del getattr(adata, where)[key]
    return adata


def test_one_clear_error_each(adata, table):
    bare = without(without(adata.copy(), "obsm", "fates"), "uns", "composition")
    other = adata.copy()
    other.obs["kind"] = "a"
    calls = {
        r"obsm\['fates'\]. Run cellflow.tl.fates\(adata, fit\) first": partial(pl.fates, bare),
        r"uns\['composition'\]. Run cellflow.tl.composition": partial(pl.composition, bare),
        "`groups`: got 'A', expected one of 'a', 'b', 'c'": partial(
            pl.fates, adata, groups=["A", "b"]
        ),
        "`groups`: got none": partial(pl.fates, adata, groups=[]),
        "'tsne'": partial(pl.fates, adata, basis="tsne"),
        "`ax`: got 2 objects": partial(pl.fates, adata, ax=plt.subplots(1, 2)[1]),
        "`label_key`: got 'state'": partial(pl.composition, adata, label_key="state"),
        "`label_key`: got 'kind' without 'b'": partial(pl.composition, other),
        "`label_key`: got 'c'": partial(pl.transitions, table, other, label_key="kind"),
        "`label_key`: got None": partial(pl.transitions, table, adata),
        "`adata`: got None": partial(pl.transitions, table, label_key="kind"),
        "`palette`: got 2 colours": partial(pl.transitions, table, palette=["red", "blue"]),
        "`table`: got negative, missing": partial(pl.transitions, -table),
        "`table`: got negative, missing or only zero": partial(pl.transitions, 0 * table),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="`table`: got ndarray, expected a DataFrame"):
        pl.transitions(table.to_numpy())
