"""Cells between their fates, which stand on a circle."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow import _checks
from cellflow.pl import _cells, _frame

#: Distance of the names from the centre, where corners are at one.
_NAMES = 1.1


def fate_simplex(
    adata: AnnData,
    *,
    color: str | None = None,
    palette: _cells.Palette | None = None,
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw each cell at the mean of its fates, which are corners on a circle.

    A cell in a corner has one fate, one in the centre may have all. With more than three fates
    different probabilities may come to one place. Cells without fates are left out.

    Parameters
    ----------
    adata
        Cells with ``obsm["fates"]``, three or more, as :func:`cellflow.tl.fates` writes it.
    color
        What colours the cells: a column of ``obs``, or a gene; their likeliest fate when omitted.
    palette, size, title, ax
        As in :func:`trajectories`.
    """
    table = _cells.written(adata, "obsm", "fates", call="fates(adata, fit)")
    names, values = [str(name) for name in table.columns], table.to_numpy(dtype=float)
    if len(names) < 3:
        got, remedy = f"{len(names)} fates", "Draw them by cellflow.pl.fates."
        raise ValueError(_checks.message("adata", got, "three fates or more", remedy))
    key = adata.uns.get("fates", {}).get("label_key")
    colors = _cells.named_colors(adata, names, key, palette if color is None else None)
    inks, corners = np.array([colors[name] for name in names]), simplex_corners(len(names))
    coloring = None if color is None else _cells.color_of(adata, color, palette)
    below = coloring.height if coloring else 0
    ax = _frame.axes(ax, size=(3.6, 3.2 + below))
    ax.fill(*corners.T, fc="none", ec=_frame.GREY, lw=0.6, zorder=0)
    xy, area = values @ corners, _cells.dot_size(len(values), size)  # NaN is not drawn
    if coloring is None:
        _cells.draw(ax, xy, color=inks[values.argmax(1)], s=area, alpha=0.6, zorder=1)
    else:
        coloring.draw(ax, xy, s=area, alpha=0.6)
        coloring.explain(ax)
    for name, (x, y), ink in zip(names, corners, inks, strict=True):
        sideways = "center" if abs(x) < 0.3 else "left" if x > 0 else "right"
        upright = "center" if abs(x) >= 0.3 else "bottom" if y > 0 else "top"
        place = (_NAMES * x, _NAMES * y)
        ax.text(*place, name, ha=sideways, va=upright, fontsize=_frame.SMALL)
        ax.plot([x], [y], "o", color=ink, ms=5, mec="white", mew=0.6, zorder=2, clip_on=False)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(title or "", fontsize=_frame.FONT)
    return ax


def simplex_corners(n: int) -> np.ndarray:
    """Return `n` points on the unit circle, evenly spaced from the top, shape ``(n, 2)``."""
    angles = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angles), np.sin(angles)], 1)
