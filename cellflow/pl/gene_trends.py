"""Expression of genes over time, along fates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cellflow.pl import _cells, _frame
from cellflow.tl.gene_trends import ALL


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
