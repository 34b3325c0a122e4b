"""Cells by batch and where a reference has them; scores of outliers by groups of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow.pl import _cells, _frame
from cellflow.pp.access import column_of
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


def outliers(
    adata: AnnData,
    label_key: str,
    *,
    key: str = "outlier",
    palette: _cells.Palette | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the scores of each group of cells, and how many of it are called.

    Of cells `adata` that :func:`cellflow.tl.outlier_score` has scored with ``key_added=key``, in
    groups of ``obs[label_key]`` with the colours of a `palette`, as in :func:`trajectories`, on
    `ax` or a new figure. Boxes are the middle half with the median, lines the middle 90 %, dots
    the cells beyond. Those above the dashed threshold are called, and their share stands on the
    right. Reference cells that were fitted, which look less strange than they are, are left out.
    """
    call = "outlier_score(adata, reference=…)"
    about = _cells.written(adata, "uns", key, call=call)
    score = np.asarray(_cells.written(adata, "obs", f"{key}_score", call=call), dtype=float)
    fresh = ~np.asarray(_cells.written(adata, "obs", f"{key}_fitted", call=call), dtype=bool)
    colors = _cells.label_colors(adata, label_key, palette)
    of = column_of(adata, label_key, "label_key").astype(str).to_numpy()
    groups = [group for group in colors if (fresh & (of == group)).any()]
    ax = _frame.axes(ax, size=(4.0, 0.8 + 0.28 * len(groups)))
    text: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "fontsize": _frame.SMALL}
    box: dict[str, Any] = {"orientation": "horizontal", "widths": 0.6, "patch_artist": True}
    box |= {"whis": (5, 95), "showcaps": False, "medianprops": {"color": _frame.DARK}}
    for y, group in enumerate(groups):
        some, ink = score[fresh & (of == group)], colors[group]
        style: dict[str, Any] = {"boxprops": {"fc": ink, "ec": ink, "alpha": 0.5}}
        style["flierprops"] = {"marker": ".", "ms": 2, "mew": 0, "mfc": ink}
        ax.boxplot(some, positions=[y], whiskerprops={"color": ink}, **box, **style)
        ax.text(1.02, y, f"{np.mean(some > about['threshold']):.1%}", va="center", **text)
    ax.text(1.02, -0.75, "called", va="bottom", **text)
    ax.axvline(about["threshold"], color=_frame.DARK, lw=0.8, ls=(0, (4, 2)), zorder=3)
    ax.set_yticks(range(len(groups)), groups)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    _frame.dress(ax, x="score, −log density (nats)", y="")
    return ax
