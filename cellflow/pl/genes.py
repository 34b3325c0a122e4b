"""Genes that go with fates, by effect and error rate, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.tl.genes import ALL

_PREFIX = "drivers_"
#: False discovery rate below which genes have a colour, and the least that is drawn.
_LEVEL, _LEAST = 0.05, 1e-300
_MARKS: dict[str, Any] = {"lw": 0.4, "color": _frame.GREY}


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

    Parameters
    ----------
    adata
        Cells with ``uns["gene_trends"]``, as :func:`cellflow.tl.gene_trends` writes it.
    genes, fates
        What to draw of it, in this order; all when omitted.
    key, palette
        Key of the fates in ``uns``, which says the unit of time and the column whose colours fates
        have; and colours as in :func:`trajectories`.
    ax
        Where to draw: an axes for each gene, in their order, which are returned; a new figure when
        omitted.
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
