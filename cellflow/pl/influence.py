"""Which genes act on which, as a network or a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.pl.fates import simplex_corners

#: Width in points of the arrow of the strongest influence.
_WIDTH = 2.0


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
        Cells with ``uns["influence"]``, or such a table: a row for each gene that changes, a
        column for each that acts on it.
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
