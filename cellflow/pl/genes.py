"""Genes: those that go with fates, over time, on each other, and what their perturbation does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from cellflow import _checks
from cellflow.answers.drivers import WIDTH
from cellflow.pl import _cells, _frame
from cellflow.pl.fates import simplex_corners
from cellflow.tl.genes import ALL

_PREFIX = "drivers_"
#: False discovery rate below which genes have a colour, and effects are filled; least one drawn.
_LEVEL, _LEAST = 0.05, 1e-300
_MARKS: dict[str, Any] = {"lw": 0.4, "color": _frame.GREY}
#: Width in points of the arrow of the strongest influence.
_WIDTH = 2.0
_NULL: dict[str, Any] = {"color": "#e2e2e2", "lw": 5, "solid_capstyle": "butt", "zorder": 1}


def drivers(
    adata: AnnData,
    fates: str | Sequence[str] | None = None,
    *,
    kind: str = "heatmap",
    n_genes: int = 5,
    palette: _cells.Palette | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Axes | np.ndarray:
    """Draw the first drivers of fates as a heat map, or all genes of each fate as a volcano.

    Parameters
    ----------
    adata
        Cells with ``uns["drivers_<fate>"]``, as :func:`cellflow.tl.drivers` writes it.
    fates
        Fates to draw, in this order; all that were asked for when omitted.
    kind
        ``"heatmap"``: a row for each gene that is among the first of a fate, a column for each
        fate. ``"volcano"``: a panel for each fate, the correlation of each gene against its false
        discovery rate, on a logarithmic scale; genes below 5 % have the colour of the fate.
    n_genes
        First genes of each fate in the heat map; in a volcano, genes to name on either side.
    palette
        Colours of fates, as in :func:`trajectories`.
    ax
        Where to draw: one axes, or of a volcano one for each fate, which are returned; a new figure
        when omitted.
    """
    _checks.choice(kind, ("heatmap", "volcano"), "kind")
    n = _checks.count(n_genes, "n_genes")
    known = [k.removeprefix(_PREFIX) for k in adata.uns if k.startswith(_PREFIX)]
    if not known:  # say so
        _cells.written(adata, "uns", f"{_PREFIX}<fate>", call="drivers(adata, fate)")
    asked = [fates] if isinstance(fates, str) else fates
    slots = None if asked is None else [str(fate).replace("/", "_") for fate in asked]
    wanted = _cells.chosen(slots, known, "fates")
    tables = {fate: adata.uns[_PREFIX + fate] for fate in wanted}
    measures = {"correlation" if "correlation" in t else "gradient" for t in tables.values()}
    if len(measures) > 1 or (kind == "volcano" and measures != {"correlation"}):
        got, remedy = "drivers by gradient", "Run cellflow.tl.drivers(adata, fate) for each."
        raise ValueError(_checks.message("fates", got, "all by correlation", remedy))
    if kind == "heatmap":
        return _draw_heatmap(tables, measures.pop(), n, ax)
    colors = _colors(adata, wanted, palette)
    axes = _frame.row_of_axes(ax, len(wanted), extent=(1.3, 1.0), height=2.4)
    for panel, fate in zip(axes, wanted, strict=True):
        _draw_volcano(panel, tables[fate], n, colors[fate])
        panel.set_title(fate, fontsize=_frame.FONT)
    _frame.dress_row(axes, [], x="correlation", y="−log₁₀ false discovery rate", own=ax is None)
    return axes


def _colors(adata: AnnData, fates: Sequence[str], palette: _cells.Palette | None) -> dict[str, Any]:
    """Colour of each fate, of which a slash is an underscore here."""
    key = adata.uns.get("fates", {}).get("label_key")
    names = [str(name) for name in adata.obsm["fates"].columns] if "fates" in adata.obsm else fates
    colors = _cells.named_colors(adata, names, key, palette)
    found = {name.replace("/", "_"): color for name, color in colors.items()}
    return {fate: found.get(fate, _frame.DARK) for fate in fates}


def _draw_heatmap(
    tables: dict[str, pd.DataFrame], measure: str, n: int, ax: Axes | Sequence[Axes] | None
) -> Axes:
    firsts = [gene for table in tables.values() for gene in table[measure].dropna().index[:n]]
    rows = list(dict.fromkeys(firsts))
    values = pd.DataFrame({fate: table[measure].reindex(rows) for fate, table in tables.items()})
    size = (1.7 + 0.22 * max(len(tables), 4), 0.7 + 0.14 * len(rows))
    ax = _frame.axes(ax, size=size)  # type: ignore[arg-type] # refuses several
    _frame.heatmap(ax, values, measure)
    return ax


def _draw_volcano(ax: Axes, table: pd.DataFrame, n: int, color: Any) -> None:
    """Draw a dot for each gene, and name those of the largest effects, beside the dots."""
    table = table.dropna(subset=["correlation", "fdr"])
    x = table["correlation"].to_numpy()
    y = -np.log10(np.maximum(table["fdr"].to_numpy(), _LEAST))
    for sure, ink in ((False, _frame.GREY), (True, color)):
        of = (table["fdr"].to_numpy() < _LEVEL) == sure
        _cells.draw(ax, np.stack([x[of], y[of]], 1), color=ink, s=6)
    most, top = np.abs(x).max(initial=1e-9), y.max(initial=1.0)
    ax.axhline(-np.log10(_LEVEL), ls=(0, (3, 2)), zorder=0, **_MARKS)
    ax.axvline(0, zorder=0, **_MARKS)
    for side, align in ((-1, "right"), (1, "left")):
        named = np.flatnonzero(side * x > 0)
        named = named[np.argsort(-np.abs(x[named]), kind="stable")[:n]]
        heights = _frame.spread(y[named], 0.085 * top)
        heights -= max(0.0, heights.max(initial=0.0) - top)
        for k, height in zip(named, heights, strict=True):
            line = {"arrowstyle": "-", "lw": 0.4, "color": _frame.DARK, "shrinkA": 0, "shrinkB": 1}
            text: dict[str, Any] = {"ha": align, "va": "center", "fontsize": _frame.SMALL - 1}
            place = (1.12 * side * most, height)
            ax.annotate(str(table.index[k]), (x[k], y[k]), place, arrowprops=line, **text)
    tick = _frame.round_below(most)
    ax.set_xticks([-tick, 0, tick])
    ax.set_xlim(-2.1 * most, 2.1 * most)  # room for the names


def gene_trends(
    adata: AnnData,
    *,
    genes: str | Sequence[str] | None = None,
    fates: str | Sequence[str] | None = None,
    key: str = "fates",
    palette: _cells.Palette | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the mean expression of genes over time, with its 95 % band, a line for each fate.

    Of cells `adata` with ``uns["gene_trends"]``, as :func:`cellflow.tl.gene_trends` writes it:
    these `genes` and `fates`, in this order, all when omitted. The `key` of the fates in ``uns``
    says the unit of time and the column whose colours fates have; `palette` is as in
    :func:`trajectories`. Each gene is drawn on one of the axes `ax`, which are returned, or in a
    new figure.
    """
    table = _cells.written(adata, "uns", "gene_trends", call="gene_trends(adata, genes)")
    table, about = table.astype({"gene": str, "fate": str}), adata.uns.get(key, {})
    known = list(table["fate"].unique())
    if known == [ALL]:
        colors = {ALL: _frame.DARK}
    else:
        colors = _cells.named_colors(adata, known, about.get("label_key"), palette)
    wanted = _cells.chosen(genes, list(table["gene"].unique()), "genes")
    lines = _cells.chosen(fates, known if fates is not None else list(colors), "fates")
    axes = _frame.row_of_axes(ax, len(wanted), extent=(1.7, 1.0), height=1.7)
    for panel, gene in zip(axes, wanted, strict=True):
        for fate in lines:
            part = table[(table["gene"] == gene) & (table["fate"] == fate)]
            band = (part["time"], part["low"], part["high"])
            panel.fill_between(*band, color=colors[fate], alpha=0.15, lw=0)
            panel.plot(part["time"], part["mean"], color=colors[fate], lw=1.2, label=fate)
        panel.set_title(gene, fontsize=_frame.FONT)
    handles = [Line2D([], [], color=colors[fate], label=fate) for fate in lines if known != [ALL]]
    x = _frame.plural(about.get("unit", ""))
    _frame.dress_row(axes, handles, x=x, y="expression", own=ax is None)
    return axes


def influence(
    adata: AnnData | pd.DataFrame,
    *,
    kind: str = "network",
    n_edges: int = 30,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the influence of genes on each other: what raises another is red, what lowers it blue.

    Parameters
    ----------
    adata
        Cells with ``uns["influence"]``, or such a table: a row for each gene that changes, a column
        for each that acts on it.
    kind
        ``"network"``: genes on a circle and an arrow for each of the strongest influences, as wide
        as it is strong, without those of genes on themselves. ``"heatmap"``: the genes of these
        influences, all of them.
    n_edges, title, ax
        How many influences count as the strongest; the rest as in :func:`trajectories`.
    """
    _checks.choice(kind, ("network", "heatmap"), "kind")
    wanted = _checks.count(n_edges, "n_edges")
    table = adata
    if not isinstance(table, pd.DataFrame):
        table = _cells.written(adata, "uns", "influence", call="influence(adata, fit)")
    table = table.rename(index=str, columns=str)
    strength = np.abs(table.to_numpy(dtype=float))
    strength[table.index.to_numpy()[:, None] == table.columns.to_numpy()] = 0
    order = np.argsort(-np.nan_to_num(strength), axis=None, kind="stable")[:wanted]
    edges = [(i, j) for i, j in zip(*np.unravel_index(order, strength.shape), strict=True)]
    edges = [(table.columns[j], table.index[i]) for i, j in edges if strength[i, j] > 0]
    if not edges:
        got = "no influence of one gene on another"
        raise ValueError(_checks.message("adata", got, "a table of influences"))
    ends = [gene for edge in edges for gene in edge]
    genes = list(dict.fromkeys([*table.index[table.index.isin(ends)], *ends]))
    if kind == "network":
        ax = _frame.axes(ax, size=(3.6, 3.4))
        _draw_network(ax, genes, {(a, b): float(table.loc[b, a]) for a, b in edges})
    else:
        rows, columns = ([g for g in genes if g in axis] for axis in (table.index, table.columns))
        ax = _frame.axes(ax, size=(1.5 + 0.15 * len(columns), 0.9 + 0.15 * len(rows)))
        _frame.heatmap(ax, table.loc[rows, columns], "influence", square=True)
        ax.set_xlabel("gene that acts", fontsize=_frame.FONT)
        ax.set_ylabel("gene that changes", fontsize=_frame.FONT)
    ax.set_title(title or "", fontsize=_frame.FONT)
    return ax


def _draw_network(ax: Axes, genes: list[str], edges: dict[tuple[str, str], float]) -> None:
    """Draw arrows between genes on a circle, the strongest above, and names outside."""
    places = dict(zip(genes, simplex_corners(len(genes)), strict=True))
    most = max(map(abs, edges.values()))
    for (source, target), value in reversed(edges.items()):
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 7, "lw": 0.3}
        style["lw"] += (_WIDTH - 0.3) * abs(value) / most
        style |= {"connectionstyle": "arc3,rad=0.15", "shrinkA": 3, "shrinkB": 4}
        ink = _frame.SIGNED_COLORS(0.9 if value > 0 else 0.1)
        first, last = places[source], places[target]
        ax.add_patch(FancyArrowPatch(first, last, color=ink, alpha=0.8, **style))
    for gene, (x, y) in places.items():
        ax.plot([x], [y], "o", color=_frame.DARK, ms=4, mec="white", mew=0.6, zorder=3)
        angle = np.degrees(np.arctan2(y, x))
        flip = abs(angle) > 90  # so that no name stands on its head
        turn: dict[str, Any] = {"rotation": angle + 180 * flip, "rotation_mode": "anchor"}
        turn |= {"ha": "right" if flip else "left", "va": "center", "fontsize": _frame.SMALL}
        ax.text(1.08 * x, 1.08 * y, gene, **turn)
    ax.set_aspect("equal")
    ax.set_xlim(-1.1, 1.1)
    ax.set_ylim(-1.1, 1.1)
    ax.set_axis_off()


def perturbation(
    adata: AnnData,
    *,
    genes: str | Sequence[str] | None = None,
    groups: str | Sequence[str] | None = None,
    palette: _cells.Palette | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw what a change of genes does to the probability of groups, beside its null.

    Dots are effects, lines their 95 % intervals over cells, and grey bars the middle 95 % of the
    effects of other genes that are expressed and loaded alike. A dot is filled where the false
    discovery rate is below 5 %.

    Parameters
    ----------
    adata
        Cells with ``uns["perturbation"]``, as :func:`cellflow.tl.perturb` writes it.
    genes, groups, palette
        What to draw of it, in this order, all when omitted; and colours of groups, as in
        :func:`trajectories`.
    ax
        Where to draw: an axes for each group, with a row for each gene, or the other way round
        where there are more groups than genes. They are returned; a new figure when omitted.
    """
    table = _cells.written(adata, "uns", "perturbation", call="perturb(adata, fit, genes)")
    table = table.astype({"gene": str, "group": str})
    about, known = adata.uns.get("perturbation_fit", {}), list(table["group"].unique())
    colors = _cells.named_colors(adata, known, about.get("label_key"), palette)
    asked = {
        "gene": _cells.chosen(genes, list(table["gene"].unique()), "genes"),
        "group": _cells.chosen(groups, list(colors) if groups is None else known, "groups"),
    }
    outer, inner = sorted(asked, key=lambda name: len(asked[name]))
    if len(asked["gene"]) == len(asked["group"]):
        outer, inner = "group", "gene"
    n = len(asked[inner])
    height, width = 0.75 + 0.17 * n, 1.7 if len(asked[outer]) > 1 else 2.8
    axes = _frame.row_of_axes(ax, len(asked[outer]), extent=(width, height - 0.8), height=height)
    for panel, name in zip(axes, asked[outer], strict=True):
        part = table[table[outer] == name].set_index(inner).loc[asked[inner]]
        inks = [to_rgba(colors[g]) for g in (part.index if inner == "group" else [name] * n)]
        _draw_effects(panel, part, inks)
        panel.set_title(name, fontsize=_frame.FONT)
    _frame.dress_row(axes, _legend(), x="change of probability", y="", own=ax is None)
    columns = axes[0].get_subplotspec().get_gridspec().ncols if ax is None else len(axes)
    limits = np.array([panel.get_xlim() for panel in axes])
    for k, panel in enumerate(axes):
        panel.set_xlim(limits.min(), limits.max())
        panel.set_yticks(range(n), asked[inner] if k % columns == 0 else [""] * n)
    return axes


def _draw_effects(ax: Axes, part: pd.DataFrame, inks: list[Any]) -> None:
    """Draw a row for each effect, the first at the top."""
    for y, (row, ink) in enumerate(zip(part.itertuples(), inks, strict=True)):
        ax.plot([row.null_low, row.null_high], [y, y], **_NULL)
        half = WIDTH * row.standard_error
        ax.plot([row.effect - half, row.effect + half], [y, y], color=ink, lw=0.9, zorder=2)
    sure = part["fdr"].to_numpy() < _LEVEL
    fill = [ink if yes else (1, 1, 1, 1) for ink, yes in zip(inks, sure, strict=True)]
    style: dict[str, Any] = {"s": 16, "linewidths": 0.9, "zorder": 3}
    ax.scatter(part["effect"], np.arange(len(part)), facecolors=fill, edgecolors=inks, **style)
    ax.axvline(0, color=_frame.DARK, lw=0.5, zorder=1.5)
    ax.set_ylim(len(part) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=3)
    ax.xaxis.set_major_formatter("{x:g}")


def _legend() -> list[Line2D]:
    dot: dict[str, Any] = {"color": _frame.DARK, "marker": "o", "ms": 4, "lw": 0.9}
    return [
        Line2D([], [], label=f"q < {_LEVEL:g}", **dot),
        Line2D([], [], label=f"q ≥ {_LEVEL:g}", mfc="white", **dot),
        Line2D([], [], label="other genes, middle 95 %", **_NULL),
    ]
