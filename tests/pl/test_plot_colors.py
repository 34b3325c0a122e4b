"""Colours of cells: whose they are, how many differ, and what is grey."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb, to_rgba_array
from scipy import sparse

from cellflow import pl
from cellflow.pl import _cells, _frame

N = 120


def cells(k: int, *, unknown: int = 0) -> AnnData:
    """Cells of `k` types in turn, the first few of none, with two genes."""
    rng = np.random.default_rng(0)
    names = [f"type {i}" for i in range(k)]
    kind = pd.Series(pd.Categorical(np.resize(names, N), categories=names))
    kind[:unknown] = np.nan
    obs = pd.DataFrame({"kind": kind.to_numpy(), "depth": rng.normal(size=N)})
    obs["kind"] = pd.Categorical(kind, categories=names)
    obs.index = [f"c{i}" for i in range(N)]
    umap = rng.normal(size=(N, 2))
    x = rng.poisson(1.0, size=(N, 2)).astype(float)
    var = pd.DataFrame(index=["Sox2", "Gata6"])
    return AnnData(X=x, obs=obs, var=var, obsm={"X_umap": umap, "velocity_umap": 0 * umap})


def dots(ax: Axes) -> list[PathCollection]:
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def drawn_rgb(ax: Axes, adata: AnnData) -> np.ndarray:
    """Colour of each cell as drawn, found by its place, shape (n, 3)."""
    place = {tuple(xy): k for k, xy in enumerate(adata.obsm["X_umap"])}
    out = np.full((adata.n_obs, 3), np.nan)
    for group in dots(ax):
        rgba = np.broadcast_to(group.get_facecolors(), (len(group.get_offsets()), 4))
        for xy, color in zip(group.get_offsets(), rgba, strict=True):
            out[place[tuple(xy)]] = color[:3]
    return out


@pytest.mark.parametrize("kind", [list, np.array, lambda c: dict(zip("012", c, strict=True))])
def test_colours_are_those_of_uns(kind):
    adata, colors = cells(3), ["#ff0000", "#00ff00", "teal"]
    adata.obs["kind"] = adata.obs["kind"].cat.rename_categories(["0", "1", "2"])
    adata.uns["kind_colors"] = kind(colors)
    ax = pl.velocity(adata, color="kind")
    expected = [to_rgb(colors[code]) for code in adata.obs["kind"].cat.codes]
    np.testing.assert_allclose(drawn_rgb(ax, adata), expected)
    handles = ax.get_legend().legend_handles
    assert [to_rgb(h.get_color()) for h in handles] == [to_rgb(c) for c in colors]


@pytest.mark.parametrize("stored", [["red"], ["red", "green", "no colour"], "red", None])
def test_colours_of_uns_that_do_not_fit_are_left(stored):
    adata = cells(3)
    adata.uns["kind_colors"] = stored
    got = {tuple(c) for c in drawn_rgb(pl.velocity(adata, color="kind"), adata)}
    assert got == {to_rgb(c) for c in _frame.PALETTE[:3]}
    assert adata.uns["kind_colors"] is stored


@pytest.mark.parametrize("k", [1, 3, 6, 7, 12, 20, 21, 28, 29, 102, 110])
def test_every_category_has_its_own_colour(k):
    adata = cells(k)
    rgb = drawn_rgb(pl.velocity(adata, color="kind"), adata)
    assert len(np.unique(rgb, axis=0)) == k
    assert not (rgb == to_rgb(_frame.GREY)).all(1).any()


def test_more_than_six_colours_are_scanpys():
    from scanpy.plotting import palettes

    assert _cells.category_colors(12) == palettes.default_20[:12]
    assert _cells.category_colors(25) == palettes.default_28[:25]


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (["red", "green", "blue"], ["red", "green", "blue"]),
        ({"type 2": "red", "type 0": "green", "type 1": "k"}, ["green", "k", "red"]),
        ("tab10", ["tab:blue", "tab:orange", "tab:green"]),
        ("gray", ["0.0", (128 / 255,) * 3, "1.0"]),
    ],
)
def test_a_palette_overrides_uns(palette, expected):
    adata = cells(3)
    adata.uns["kind_colors"] = ["pink"] * 3
    rgb = drawn_rgb(pl.velocity(adata, color="kind", palette=palette), adata)
    np.testing.assert_allclose(rgb[:3], [to_rgb(c) for c in expected], atol=1e-6)


def test_cells_without_a_category_are_grey_below_and_in_the_legend():
    adata = cells(12, unknown=5)
    ax = pl.velocity(adata, color="kind")
    below, above = dots(ax)
    assert (len(below.get_offsets()), len(above.get_offsets())) == (5, N - 5)
    assert below.get_zorder() < above.get_zorder()
    np.testing.assert_allclose(drawn_rgb(ax, adata)[:5], [to_rgb(_frame.GREY)] * 5)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == [*adata.obs["kind"].cat.categories, "NA"]


@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_a_gene_colours_cells_and_the_highest_are_above(matrix):
    adata = cells(3)
    gene = adata.X[:, 1].copy()
    adata.X = matrix(adata.X)
    ax = pl.velocity(adata, color="Gata6", palette="magma", size=7.0, title="Where it is on")
    (drawn,) = dots(ax)
    order = np.argsort(gene, kind="stable")
    np.testing.assert_array_equal(drawn.get_array(), gene[order])
    np.testing.assert_array_equal(drawn.get_offsets(), adata.obsm["X_umap"][order])
    assert (drawn.norm.vmin, drawn.norm.vmax) == (gene.min(), gene.max())
    assert drawn.cmap.name == "magma"
    assert [a.get_ylabel() for a in ax.child_axes] == ["Gata6"]
    assert ax.get_title() == "Where it is on"
    np.testing.assert_array_equal(drawn.get_sizes(), [7.0])


def test_a_gene_is_that_of_raw_and_a_column_comes_first():
    adata = cells(3)
    adata.raw = adata.copy()
    adata.X = adata.X - 100
    adata = adata[:, ["Sox2"]].copy()  # Gata6 is in raw alone
    for gene in ("Sox2", "Gata6"):
        np.testing.assert_array_equal(_cells.color_of(adata, gene).values.min(), 0)
    adata.obs["Sox2"] = 3.0
    assert (_cells.color_of(adata, "Sox2").values == 3).all()


@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("raw", [False, True])
def test_a_gene_and_colours_are_read_from_a_file(tmp_path, matrix, raw):
    adata = cells(12)
    gene = adata.X[:, 1].copy()
    adata.X = matrix(adata.X)
    adata.raw = adata.copy() if raw else None
    adata.uns["kind_colors"] = [f"#{i:02d}0000" for i in range(12)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(_cells.color_of(read, "Gata6").values, gene)
    np.testing.assert_array_equal(
        _cells.color_of(read, "kind").colors, to_rgba_array(adata.uns["kind_colors"])
    )
    read.file.close()


def test_a_view_keeps_the_colours_of_its_categories():
    adata = cells(12)
    adata.uns["kind_colors"] = [f"#{i:02d}0000" for i in range(12)]
    some = _cells.color_of(adata[adata.obs["kind"].isin(["type 3", "type 5"])], "kind")
    assert some.labels == ("type 3", "type 5")
    np.testing.assert_array_equal(some.colors, to_rgba_array(["#030000", "#050000"]))


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_numbers_that_are_all_the_same_or_missing_are_drawn(value):
    adata = cells(3)
    adata.obs["depth"] = value
    ax = pl.velocity(adata, color="depth")
    ax.figure.canvas.draw()
    assert sum(len(group.get_offsets()) for group in dots(ax)) == N


def test_bad_colours():
    adata = cells(3)
    bad = [
        ({"color": "Gata"}, "mean 'Gata6'"),
        ({"color": "kind", "palette": ["red"]}, "got 1 colours"),
        ({"color": "kind", "palette": {"type 0": "red"}}, "no colour for 'type 1'"),
        ({"color": "kind", "palette": ["red", "green", "blu"]}, "got 'blu'"),
        ({"color": "kind", "palette": "virids"}, "mean 'viridis'"),
        ({"color": "depth", "palette": ["red"]}, "got list with"),
        ({"color": "kind", "size": 0}, "`size`"),
    ]
    for options, text in bad:
        with pytest.raises(ValueError, match=text):
            pl.velocity(adata, **options)
    adata.var_names = ["Sox2", "Sox2"]
    with pytest.raises(ValueError, match="the name of 2 genes"):
        pl.velocity(adata, color="Sox2")
    assert plt.get_fignums() == []
