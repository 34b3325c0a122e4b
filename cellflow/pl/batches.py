"""Cells by batch, as they were and where a reference has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow.pl import _cells, _frame
from cellflow.tl.projection import embedding


def batches(
    adata: AnnData,
    batch_key: str,
    *,
    basis: str = "pca",
    dims: tuple[int, int] = (0, 1),
    palette: _cells.Palette | None = None,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw cells before and after their batches were taken out, and how well these can be told.

    Of cells `adata` that :func:`cellflow.tl.batch_free` changed, coloured by ``obs[batch_key]``;
    `basis` is the representation that batches were taken out of, `dims`, `palette` and `size` are
    as in :func:`trajectories`, and `ax` has two axes, or is a new figure. The title has how often
    nearest neighbours tell the batch of a cell, beside chance, and of labels the share of
    neighbours in other batches with a cell's own.
    """
    table = _cells.written(adata, "uns", "batch_free", call="batch_free(adata, batch_key=…)")
    coloring = _cells.color_of(adata, batch_key, palette)
    clouds = [embedding(adata, name, dims=dims) for name in (basis, "batch_free")]
    axes = _frame.row_of_axes(ax, 2, extent=np.ptp(np.concatenate(clouds), axis=0), height=2.8)
    for panel, xy, when in zip(axes, clouds, ("before", "after"), strict=True):
        coloring.draw(panel, xy, s=_cells.dot_size(len(xy), size))
        row = table.loc[when]
        title = f"{when}\nbatch told {row['batch_accuracy']:.2f} (chance {row['chance']:.2f})"
        if "label_transfer" in table:
            title += f"\nlabels across batches {row['label_transfer']:.2f}"
        _frame.dress_embedding(panel, basis, dims, title=title)
    for panel in axes:  # one scale
        panel.update_datalim(np.concatenate(clouds))
        panel.autoscale_view()
    coloring.explain(axes[0])
    return axes
