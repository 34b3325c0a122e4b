"""Probabilities of fates, over the cells and between corners on a circle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.tl.projection import embedding

#: Distance of the names from the centre, where corners are at one.
_NAMES = 1.1


def fates(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    groups: str | Sequence[str] | None = None,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the probability of each fate over the cells of an embedding.

    Of cells `adata` with the embedding and ``obsm["fates"]``, as :func:`cellflow.tl.fates` writes
    it; with `basis`, `dims` and `size` as in :func:`trajectories`. One panel for each of the fates
    in `groups`, in this order, all of them when omitted, with the same colours from 0 to 1: on as
    many axes `ax`, which are returned, or in a new figure. Likely cells are drawn above unlikely
    ones. Cells without fates, such as those without a time, are grey.
    """
    table = _cells.written(adata, "obsm", "fates", call="fates(adata, fit)")
    known = [str(group) for group in table.columns]
    wanted = _cells.chosen(groups, known, "groups")
    columns = [known.index(group) for group in wanted]
    xy = embedding(adata, basis, dims=dims)
    area = _cells.dot_size(2 * len(xy), size)  # these panels are small
    axes = _frame.row_of_axes(ax, len(wanted), extent=np.ptp(xy, axis=0), height=2.0)
    norm, cmap = Normalize(0.0, 1.0), _frame.TIME_COLORS
    values = table.to_numpy(dtype=float)
    for panel, group, column in zip(axes, wanted, columns, strict=True):
        _cells.Numbers(group, values[:, column], norm, cmap).draw(panel, xy, s=area)
        _frame.dress_embedding(panel, basis, dims, title=group)
        panel.label_outer()
    right = max(axes, key=lambda panel: panel.get_position().x1)  # where it takes no panel's place
    _frame.colorbar(right, norm, "probability of the fate")
    return axes


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

    Of cells `adata` with ``obsm["fates"]``, three or more, as :func:`cellflow.tl.fates` writes it.
    They are coloured by `color`, a column of ``obs`` or a gene, by their likeliest fate when
    omitted; with `palette`, `size`, `title` and `ax` as in :func:`trajectories`. A cell in a corner
    has one fate, one in the centre may have all. With more than three fates different probabilities
    may come to one place. Cells without fates are left out.
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
