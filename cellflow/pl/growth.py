"""Learned rates of growth, at each cell and by groups of cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow.pl import _cells, _frame
from cellflow.pp.access import column_of


def growth(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    label_key: str | None = None,
    key: str = "growth",
    palette: _cells.Palette | None = None,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the learned growth rate of each cell, births in red and deaths in blue.

    Parameters
    ----------
    adata
        Cells with the embedding and ``obs["growth"]``, as :func:`cellflow.tl.growth` writes it.
    basis, dims, palette, size
        As in :func:`trajectories`.
    label_key, key
        Column of ``obs``: a second panel has the median rate of each of its groups, with the middle
        half and the middle 90 % of its cells. And ``key_added`` of :func:`cellflow.tl.growth`.
    ax
        Where to draw: one axes for the map and, with `label_key`, one for the groups, which are
        returned; a new figure when omitted.
    """
    rates = np.asarray(_cells.written(adata, "obs", key, call="growth(adata, fit)"), dtype=float)
    unit = adata.uns.get(f"{key}_fit", {}).get("unit", "")
    known = rates[np.isfinite(rates)]
    norm = _frame.around_zero(np.quantile(known, (0.01, 0.99)) if len(known) else known)
    axis = f"growth rate ({unit})" if unit else "growth rate"
    colors = {} if label_key is None else _cells.label_colors(adata, label_key, palette)
    height = max(2.4, 0.75 + 0.17 * len(colors))
    axes = _frame.row_of_axes(ax, 1 + bool(colors), extent=(1.2, 1.0), height=height)
    numbers = _cells.Numbers(axis, rates, norm, _frame.SIGNED_COLORS)
    _cells.draw_map(axes[0], adata, numbers, basis=basis, dims=dims, size=size)
    if label_key is not None:
        labels = column_of(adata, label_key, "label_key").astype(str).to_numpy()
        for y, (label, color) in enumerate(colors.items()):
            part = rates[(labels == label) & np.isfinite(rates)]
            if len(part):
                low, left, middle, right, high = np.quantile(part, (0.05, 0.25, 0.5, 0.75, 0.95))
                axes[1].plot([low, high], [y, y], color=color, lw=0.8)
                axes[1].plot([left, right], [y, y], color=color, lw=4, solid_capstyle="butt")
                axes[1].plot([middle], [y], "o", color="white", mec=color, ms=4)
        axes[1].axvline(0, color=_frame.DARK, lw=0.5, zorder=0)
        axes[1].locator_params(axis="x", nbins=4)
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[1].set_yticks(range(len(colors)), list(colors))
        axes[1].set_ylim(len(colors) - 0.5, -0.5)
        _frame.dress(axes[1], x=axis, y="")
    return axes
