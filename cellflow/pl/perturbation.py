"""Effects of perturbed genes on fates, beside those of other genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from cellflow.answers.drivers import WIDTH
from cellflow.pl import _cells, _frame

#: False discovery rate below which a dot is filled.
_LEVEL = 0.05
_NULL: dict[str, Any] = {"color": "#e2e2e2", "lw": 5, "solid_capstyle": "butt", "zorder": 1}


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
