"""Probabilities of fates over the cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow.pl import _cells, _frame
from cellflow.tl.projection import embedding


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

    One panel for each fate, all with the same colours from 0 to 1; likely cells are drawn above
    unlikely ones. Cells without fates, such as those without a time, are grey.

    Parameters
    ----------
    adata
        Cells with the embedding and ``obsm["fates"]``, as :func:`cellflow.tl.fates` writes it.
    basis, dims, size
        As in :func:`trajectories`.
    groups
        Fates to draw, in this order; all of them when omitted.
    ax
        Where to draw: an axes for each fate, in their order, which are returned; a new figure when
        omitted.
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
