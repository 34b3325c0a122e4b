"""Figures of genes draw what the tables say: trends, drivers, perturbations, influence."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from scipy.stats import norm

from cellflow import pl
from cellflow.pl import _frame
from cellflow.pl.fates import simplex_corners

COLORS = ["#102030", "#ff0000", "#405060"]
GENES = ["Sox2", "Gata6"]


def cells(n: int = 3) -> AnnData:
    """Cells with all tables about genes, of `n` fates."""
    rng, names = np.random.default_rng(0), [f"fate/{k}" for k in range(n)]
    kind = pd.Categorical(np.resize(names, 60), categories=names[::-1])
    out = AnnData(obs=pd.DataFrame({"kind": kind}, index=[f"c{i}" for i in range(60)]))
    out.obsm["fates"] = pd.DataFrame(rng.dirichlet(np.ones(n), 60), out.obs_names, names)
    out.uns["fates"] = {"label_key": "kind", "unit": "day"}
    if n == 3:
        out.uns["kind_colors"] = COLORS
    trends, effects = [], []
    for gene in GENES:
        for fate in names:
            mean = rng.normal(size=5)
            band = {"time": np.arange(5.0), "mean": mean, "low": mean - 0.5, "high": mean + 1}
            trends.append(pd.DataFrame({"gene": gene, "fate": fate} | band))
            row = {"gene": gene, "group": fate, "effect": rng.normal(), "standard_error": 0.1}
            effects.append(row | {"fdr": rng.choice([0.01, 0.5]), "null_low": -1, "null_high": 2})
    out.uns["gene_trends"] = pd.concat(trends, ignore_index=True)
    out.uns["perturbation"] = pd.DataFrame(effects)
    out.uns["perturbation_fit"] = {"label_key": "kind"}
    for fate in names:
        table = pd.DataFrame(
            {"correlation": rng.uniform(-0.6, 0.6, 40), "fdr": 10.0 ** -rng.uniform(0, 4, 40)},
            index=[f"gene {k}" for k in range(40)],
        )
        table.loc["gene 7"] = np.nan
        name = f"drivers_{fate}".replace("/", "_")
        out.uns[name] = table.sort_values("correlation", ascending=False)
    return out


def apart(boxes) -> bool:
    return not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_trends_with_bands_in_the_colours_of_fates():
    adata = cells()
    axes = pl.gene_trends(adata)
    assert [ax.get_title() for ax in axes] == GENES
    table = adata.uns["gene_trends"]
    order = list(adata.obs["kind"].cat.categories)
    for ax, gene in zip(axes, GENES, strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        assert list(lines) == order
        for (fate, line), band, color in zip(lines.items(), ax.collections, COLORS, strict=True):
            part = table[(table["gene"] == gene) & (table["fate"] == fate)]
            np.testing.assert_array_equal(line.get_xydata(), part[["time", "mean"]])
            assert to_hex(line.get_color()) == color == to_hex(band.get_facecolor()[0])
            (path,) = band.get_paths()
            edges = {tuple(xy) for xy in path.vertices.tolist()}
            for side in ("low", "high"):
                assert edges >= set(part[["time", side]].itertuples(index=False, name=None))
        assert ax.get_xlabel() == "time (days)"
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == order


def test_some_trends_and_those_of_all_cells():
    adata = cells()
    (ax,) = pl.gene_trends(adata, genes="Gata6", fates=["fate/2", "fate/0"])
    assert (ax.get_title(), [line.get_label() for line in ax.lines]) == (
        "Gata6",
        ["fate/2", "fate/0"],
    )
    adata.uns["gene_trends"] = adata.uns["gene_trends"].query("fate == 'fate/1'").assign(fate="all")
    _, given = plt.subplots(1, 2)
    axes = pl.gene_trends(adata, ax=given)
    assert list(axes) == list(given)
    assert {to_hex(line.get_color()) for ax in axes for line in ax.lines} == {_frame.DARK}
    assert not axes[0].figure.legends
    assert axes[-1].get_legend() is None


@pytest.mark.parametrize("n", [3, 8, 12])
def test_first_drivers_of_each_fate_as_a_heat_map(n):
    adata = cells(n)
    ax = pl.drivers(adata, n_genes=2)
    rows = [text.get_text() for text in ax.get_yticklabels()]
    columns = [text.get_text() for text in ax.get_xticklabels()]
    assert columns == [f"fate_{k}" for k in range(n)]
    first = [gene for k in range(n) for gene in adata.uns[f"drivers_fate_{k}"].index[:2]]
    assert rows == list(dict.fromkeys(first))
    (image,) = ax.images
    for column, values in zip(columns, np.asarray(image.get_array()).T, strict=True):
        np.testing.assert_array_equal(values, adata.uns[f"drivers_{column}"]["correlation"][rows])
    assert image.norm.vmin == -image.norm.vmax == -np.abs(image.get_array()).max()
    ax.figure.canvas.draw()
    assert apart([text.get_window_extent() for text in (*ax.get_xticklabels(),)])
    assert apart([text.get_window_extent() for text in (*ax.get_yticklabels(),)])


@pytest.mark.parametrize("n", [3, 8, 12])
def test_a_volcano_for_each_fate(n):
    adata = cells(n)
    axes = pl.drivers(adata, kind="volcano", n_genes=4)
    assert [ax.get_title() for ax in axes] == [f"fate_{k}" for k in range(n)]
    axes[0].figure.canvas.draw()
    for k, ax in enumerate(axes):
        table = adata.uns[f"drivers_fate_{k}"].dropna()
        unsure, sure = (np.asarray(c.get_offsets()) for c in ax.collections)
        for dots, part in ((unsure, table.query("fdr >= 0.05")), (sure, table.query("fdr < 0.05"))):
            np.testing.assert_allclose(dots[:, 0], part["correlation"])
            np.testing.assert_allclose(dots[:, 1], -np.log10(part["fdr"]))
        named = {text.get_text(): text for text in ax.texts}
        assert set(named) == {*table.index[:4], *table.index[-4:]}
        for gene, text in named.items():
            assert text.xy == pytest.approx(
                (table.loc[gene, "correlation"], -np.log10(table.loc[gene, "fdr"]))
            )
        assert apart([Text.get_window_extent(text) for text in named.values()])  # without lines
        most = table["correlation"].abs().max()
        assert most / 2.5 <= ax.get_xticks()[-1] <= most  # the next larger of 1, 2, 5 is above
        if n == 3:
            assert to_hex(ax.collections[1].get_facecolors()[0]) == COLORS[::-1][k]


@pytest.mark.parametrize(("n", "rows"), [(2, "gene"), (3, "group"), (8, "group"), (12, "group")])
def test_effects_with_intervals_beside_the_null(n, rows):
    adata = cells(n)
    axes = pl.perturbation(adata)
    table, groups = adata.uns["perturbation"], list(adata.obs["kind"].cat.categories)
    panels = "group" if rows == "gene" else "gene"
    order = {"gene": GENES, "group": groups}
    assert [ax.get_title() for ax in axes] == order[panels]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == order[rows]
    for ax in axes:
        part = table[table[panels] == ax.get_title()].set_index(rows).loc[order[rows]]
        (dots,) = ax.collections
        np.testing.assert_allclose(dots.get_offsets()[:, 0], part["effect"])
        np.testing.assert_array_equal(dots.get_offsets()[:, 1], np.arange(len(part)))
        white = (dots.get_facecolors() == 1).all(1)
        np.testing.assert_array_equal(white, part["fdr"] >= 0.05)
        null, interval = ax.lines[0 : 2 * len(part) : 2], ax.lines[1 : 2 * len(part) : 2]
        ends = part["effect"].to_numpy()[:, None] + norm.ppf([0.025, 0.975]) * 0.1
        np.testing.assert_allclose([line.get_xdata() for line in interval], ends)
        np.testing.assert_array_equal([line.get_xdata() for line in null], [[-1, 2]] * len(part))
        if n == 3:
            assert [to_hex(c) for c in dots.get_edgecolors()] == COLORS
    assert len({ax.get_xlim() for ax in axes}) == 1
    axes[0].figure.canvas.draw()


def influences() -> pd.DataFrame:
    names = ["a", "b", "c", "d"]
    values = np.array([[9.0, 3, 0, 0.1], [-2, 9, 0, 0], [0, 0, 9, 1], [0, 0, 0, 9]])
    return pd.DataFrame(values, names, names)


def arrows(ax: Axes) -> dict[tuple[str, str], FancyArrowPatch]:
    """Arrow between two genes, by the places of their names on the circle."""
    names = [text.get_text() for text in ax.texts]
    places = dict(zip(names, simplex_corners(len(names)), strict=True))
    found = {}
    for patch in ax.patches:
        ends = (min(places, key=lambda n: np.hypot(*(places[n] - xy))) for xy in patch._posA_posB)
        found[tuple(ends)] = patch
    return found


def test_arrows_are_the_strongest_influences():
    ax = pl.influence(influences(), n_edges=3)
    found = arrows(ax)
    assert set(found) == {("a", "b"), ("b", "a"), ("d", "c")}
    widths = {edge: patch.get_linewidth() for edge, patch in found.items()}
    assert widths["b", "a"] == 2.0
    assert widths["a", "b"] - 0.3 == pytest.approx(2 * (widths["d", "c"] - 0.3))
    red, blue = ("b", "a"), ("a", "b")
    assert found[red].get_facecolor()[0] > 0.6 > 0.3 > found[red].get_facecolor()[2]
    assert found[blue].get_facecolor()[2] > 0.6 > 0.3 > found[blue].get_facecolor()[0]


def test_influence_of_an_anndata_as_a_heat_map():
    adata = cells()
    adata.uns["influence"] = influences()
    ax = pl.influence(adata, kind="heatmap", n_edges=2, title="to all")
    np.testing.assert_array_equal(ax.images[0].get_array(), [[9, 3], [-2, 9]])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert (ax.get_ylabel(), ax.get_title()) == ("gene that changes", "to all")


def test_names_of_a_network_stand_apart():
    rng = np.random.default_rng(0)
    names = [f"Gene{k}" for k in range(36)]
    ax = pl.influence(pd.DataFrame(rng.normal(size=(36, 36)), names, names), n_edges=300)
    assert len(ax.texts) == 36
    ax.figure.canvas.draw()
    places = np.array([text.get_position() for text in ax.texts])
    pixels = ax.transData.transform(places)
    line = _frame.SMALL / 72 * ax.figure.dpi
    assert min(np.hypot(*(a - b)) for a, b in pairwise(pixels)) > line


def test_spread_is_the_nearest_by_squares():
    rng = np.random.default_rng(0)
    places = rng.normal(size=6)
    out = _frame.spread(places, 0.5)
    assert np.diff(np.sort(out)).min() > 0.5 - 1e-9
    np.testing.assert_array_equal(out.argsort(), places.argsort())
    np.testing.assert_allclose(out.mean(), places.mean())
    best = ((out - places) ** 2).sum()
    for _ in range(200):  # no other feasible choice is nearer
        other = np.sort(out) + 0.1 * rng.normal(size=6)
        if np.diff(other).min() >= 0.5:
            assert ((other - np.sort(places)) ** 2).sum() >= best
    np.testing.assert_allclose(_frame.spread(np.array([3.0, 0.0]), 0.5), [3, 0])


def test_one_clear_error_each():
    adata, bare = cells(), AnnData(np.zeros((3, 1)))
    adata.uns["drivers_slope"] = pd.DataFrame({"gradient": [1.0]}, index=["gene"])
    calls = {
        r"uns\['gene_trends'\]. Run cellflow.tl.gene_trends\(": partial(pl.gene_trends, bare),
        r"uns\['drivers_<fate>'\]. Run cellflow.tl.drivers\(": partial(pl.drivers, bare),
        r"uns\['perturbation'\]. Run cellflow.tl.perturb\(": partial(pl.perturbation, bare),
        r"uns\['influence'\]. Run cellflow.tl.influence\(": partial(pl.influence, bare),
        "`genes`: got 'Sox3', expected": partial(pl.gene_trends, adata, genes="Sox3"),
        "`fates`: got none": partial(pl.gene_trends, adata, fates=[]),
        "`groups`: got 'fate'": partial(pl.perturbation, adata, groups="fate"),
        "`fates`: got drivers by gradient": partial(pl.drivers, adata),
        "all by correlation. Run": partial(pl.drivers, adata, "slope", kind="volcano"),
        "`adata`: got no influence": partial(pl.influence, 0 * influences()),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
