"""Where the cells of each label go, as bands from those before to those after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from cellflow import _checks
from cellflow.pl import _cells, _frame

#: Width of a block, where the two columns of blocks are one apart.
_WIDTH = 0.05
#: Inches from one label to the next at least, and of all blocks without the gaps between them.
_LINE, _HEIGHT = 0.15, 2.2
#: The gap between blocks, in lines of text.
_GAP = 0.4


def transitions(
    table: pd.DataFrame,
    adata: AnnData | None = None,
    *,
    label_key: str | None = None,
    palette: _cells.Palette | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much goes from each label before to each label after, as an alluvial diagram.

    Blocks on the left are rows of the table, those on the right its columns; a band between two is
    as wide as the mass that goes, and has the colour of its row. Labels with no mass are left out.

    Parameters
    ----------
    table
        Masses, one row for each label before and one column for each label after, as
        ``cellflow.tl.transitions(adata, fit, normalize=None)`` returns them. Where rows sum to
        one, all blocks before are equal. Names of the index and of the columns say which times
        these are.
    adata, label_key
        Cells, and the column of ``obs`` whose colours labels have.
    palette, title, ax
        As in :func:`trajectories`.
    """
    table = _checked(table)
    before, after = ([str(v) for v in axis] for axis in (table.index, table.columns))
    labels = tuple(dict.fromkeys((*before, *after)))
    if adata is not None and label_key is not None:
        colors = _cells.label_colors(adata, label_key, palette)
        for label in labels:
            _checks.choice(label, colors, "label_key")
    elif adata is None and label_key is None:
        colors = dict(zip(labels, _cells.colors_of(labels, palette), strict=True))
    else:
        missing = "label_key" if label_key is None else "adata"
        raise ValueError(_checks.message(missing, "None", "cells and a column of theirs, or none"))
    flow = table.to_numpy(dtype=float)
    ends, inch = (flow.sum(1), flow.sum(0)), flow.sum() / _HEIGHT
    tops = [_tops(mass, _LINE * inch) for mass in ends]
    ax = _frame.axes(ax, size=(3.8, 2 * max(top[0] for top in tops) / inch + 0.5))
    for x, top, mass, names in zip((-_WIDTH, 1.0), tops, ends, (before, after), strict=True):
        _draw_blocks(ax, x, top, mass, names, colors=colors)
    starts, stops = tops[0].copy(), tops[1].copy()
    for i, name in enumerate(before):
        for j in np.flatnonzero(flow[i]):
            band = _band(starts[i], stops[j], flow[i, j])
            ax.add_patch(PathPatch(band, fc=colors[name], alpha=0.5, lw=0, zorder=1))
            starts[i] -= flow[i, j]
            stops[j] -= flow[i, j]
    _frame.dress(ax, x="", y="", title=title or "")
    times = [str(axis.name or "") for axis in (table.index, table.columns)]
    ax.set_xticks([-_WIDTH / 2, 1 + _WIDTH / 2], times)
    ax.set_yticks([])
    ax.tick_params(length=0, labelsize=_frame.FONT)
    ax.spines[:].set_visible(False)
    ax.set_xlim(-_WIDTH, 1 + _WIDTH)
    ax.margins(y=0.02)
    return ax


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without empty rows and columns."""
    expected, remedy = "a table of masses", "Call cellflow.tl.transitions."
    values = table.to_numpy(dtype=float)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        got = "negative, missing or only zero masses"
        raise ValueError(_checks.message("table", got, expected, remedy))
    return table.loc[values.sum(1) > 0, values.sum(0) > 0]


def _tops(mass: np.ndarray, tall: float) -> np.ndarray:
    """Upper ends of blocks of these heights, one below the other, centred around zero.

    Each has room for a line of text, `tall`, or for its height and a gap.
    """
    room = np.maximum(mass + _GAP * tall, tall)
    slots = room.cumsum() - room / 2
    return room.sum() / 2 - slots + mass / 2


def _draw_blocks(
    ax: Axes,
    x: float,
    tops: np.ndarray,
    mass: np.ndarray,
    names: Sequence[str],
    *,
    colors: dict[str, Any],
) -> None:
    """Draw a column of blocks, with names on the outer side."""
    left = x < 0
    text: dict[str, Any] = {"fontsize": _frame.SMALL, "va": "center", "annotation_clip": False}
    text |= {"ha": "right" if left else "left"}
    text |= {"xytext": (-3 if left else 3, 0), "textcoords": "offset points"}
    for top, height, name in zip(tops, mass, names, strict=True):
        place = (x, top - height)
        ax.add_patch(Rectangle(place, _WIDTH, height, color=colors[name], lw=0.4, zorder=2))
        edge = (x if left else x + _WIDTH, top - height / 2)
        ax.annotate(name, edge, **text)


def _band(left: float, right: float, width: float) -> Path:
    """Band of a width between two blocks, from its upper ends at both."""
    upper = [(0.0, left), (0.5, left), (0.5, right), (1.0, right)]
    lower = [(x, y - width) for x, y in reversed(upper)]
    curve = [Path.CURVE4] * 3
    return Path(
        [*upper, *lower, (0.0, left)], [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY]
    )
