"""Cells as coloured dots: by time, by a number, or by a category."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from cellflow.pl import _frame
from cellflow.pp import TimeTable, parse_times
from cellflow.pp.access import column_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def read_times(
    adata: AnnData, time_key: str, time_map: Mapping[Hashable, float] | None = None
) -> tuple[np.ndarray, TimeTable]:
    """Return the time of each cell, NaN where unknown, and the table of times."""
    column = column_of(adata, time_key, "time_key")
    table = parse_times(column, time_map=time_map, missing="drop", name=f"obs[{time_key!r}]")
    values = np.full(adata.n_obs, np.nan)
    values[table.kept] = table.cell_times
    return values, table


def dot_size(n: int) -> float:
    """Area of a dot in points², smaller the more there are."""
    return float(np.clip(8000 / max(n, 1), 0.5, 8))


def draw(ax: Axes, xy: np.ndarray, **options) -> None:
    """Draw dots as pixels, so that a vector file stays small."""
    options = {"s": dot_size(len(xy)), "linewidths": 0, "rasterized": True} | options
    ax.scatter(xy[:, 0], xy[:, 1], **options)


def draw_values(ax: Axes, xy: np.ndarray, values: np.ndarray, *, norm: Normalize, **options):
    """Draw dots coloured by numbers; those without a number are grey and below."""
    known = np.isfinite(values)
    size = dot_size(len(xy))
    if not known.all():
        draw(ax, xy[~known], color=_frame.GREY, s=size, zorder=0.5)
    draw(ax, xy[known], c=values[known], cmap=_frame.TIME_COLORS, norm=norm, s=size, **options)


def draw_column(ax: Axes, xy: np.ndarray, column: pd.Series, *, bar: bool, **options):
    """Draw dots coloured by a column of ``obs``, with its legend (or colour bar, if `bar`)."""
    if column.dtype.kind in "fiu":
        values = column.to_numpy(dtype=float, na_value=np.nan)
        norm = Normalize(np.nanmin(values), np.nanmax(values))
        draw_values(ax, xy, values, norm=norm, **options)
        if bar:
            _frame.colorbar(ax, norm, str(column.name))
        return
    column = column.astype("category")
    names = list(column.cat.categories)
    colors = category_colors(len(names), ordered=bool(column.cat.ordered))
    codes = column.cat.codes.to_numpy()
    size = dot_size(len(xy))
    for code, _ in enumerate(names):
        chosen = codes == code
        draw(ax, xy[chosen], color=colors[code], s=size, **options)
    handles = [
        Line2D([], [], marker="o", ls="", ms=4, color=c, label=str(n))
        for n, c in zip(names, colors, strict=True)
    ]
    _frame.legend_below(ax, handles=handles, title=str(column.name), title_fontsize=_frame.SMALL)


def category_colors(n: int, *, ordered: bool = False) -> list:
    """Return `n` colours: the palette, or steps of the sequential map if `ordered` or too many."""
    if n <= len(_frame.PALETTE) and not ordered:
        return list(_frame.PALETTE[:n])
    return list(_frame.TIME_COLORS(np.linspace(0, 1, n)))
