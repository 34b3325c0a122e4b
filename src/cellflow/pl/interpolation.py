"""The interpolated day beside the real one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from cellflow import _checks
from cellflow._typing import ArrayLike
from cellflow.pl import _cells, _frame
from cellflow.timecourse import Snapshot
from cellflow.tl.projection import embedding, project_points

if TYPE_CHECKING:
    from anndata import AnnData

_PREDICTED, _REAL = _frame.PALETTE[1], _frame.PALETTE[0]


def interpolation(
    adata: AnnData,
    predicted: Snapshot | AnnData | ArrayLike,
    *,
    time_key: str,
    time: float | None = None,
    basis: str = "pca",
    use_rep: str = "X_pca",
    time_map: Mapping[Hashable, float] | None = None,
    scores: Mapping[str, float] | None = None,
    n_neighbors: int = 30,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the cells predicted at a time beside the cells that were measured then.

    The time points before and after are grey in every panel. The first panel shows the measured
    cells, if `adata` has cells of that time, the last one the predicted cells.

    Parameters
    ----------
    adata
        Measured cells, with the embedding.
    predicted
        Predicted cells: a snapshot, an AnnData with `use_rep`, or an array ``(m, d)``.
    time_key
        Column of ``obs`` with the time of each cell.
    time
        The time of `predicted`; needed unless that is a snapshot.
    basis
        The embedding, a key of ``obsm``; ``"umap"`` is short for ``"X_umap"``. Predicted cells
        are placed in it by :func:`cellflow.tl.projection.project_points`.
    use_rep
        The representation in which the cells were predicted.
    time_map
        Time of each label, where labels cannot be read.
    scores
        Numbers to print in the predicted panel, for example ``{"W1": 8.1, "floor": 7.4}``.
    n_neighbors
        How many cells to average when placing a cell in the embedding.
    ax
        Where to draw: as many axes as there are panels; a new figure when omitted.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
        The panels: measured and predicted, or predicted alone.

    Raises
    ------
    ValueError
        If a key is unknown, the time is missing, or shapes do not fit.
    """
    if time is None:
        time = getattr(predicted, "time", None)
    if time is None:
        got = f"None with {type(predicted).__name__}"
        raise ValueError(_checks.message("time", got, "the time of the predicted cells"))
    time = _checks.number(time, "time")
    times = _cells.read_times(adata, time_key, time_map)
    xy = embedding(adata, basis)
    placed = project_points(
        adata, _states(predicted, use_rep), basis=basis, use_rep=use_rep, n_neighbors=n_neighbors
    )
    real = xy[np.isclose(times.values, time, rtol=1e-9, atol=0)]
    panels = {"measured": (real, _REAL)} if len(real) else {}
    panels["interpolated"] = (placed, _PREDICTED)
    axes = _frame.row_of_axes(ax, len(panels))
    around = _around(times, time)
    for panel, (name, (dots, color)) in zip(axes, panels.items(), strict=True):
        _draw_around(panel, xy, times, around)
        size = 0.6 * _cells.dot_size(len(dots)) ** 0.5 + 1.5
        _cells.draw(panel, dots, color=color, s=size, alpha=0.7, zorder=2)
        _frame.dress_embedding(panel, basis)
        panel.set_title(f"{times.unit} {time:g}, {name}", fontsize=_frame.FONT, color=color)
    _share_limits(axes, np.concatenate([placed, real, xy[np.isin(times.values, around)]]))
    if around:
        _frame.legend(axes[0], loc="best", markerscale=2.5)
    _print_scores(axes[-1], scores or {})
    return axes


def _states(predicted: Snapshot | AnnData | ArrayLike, use_rep: str) -> ArrayLike:
    if isinstance(predicted, Snapshot):
        return predicted.x
    if hasattr(predicted, "obsm"):
        key = use_rep if use_rep in predicted.obsm or use_rep == "X" else f"X_{use_rep}"
        if key == "X":
            return predicted.X
        return predicted.obsm[_checks.choice(key, list(predicted.obsm.keys()), "use_rep")]
    return predicted


def _around(times: _cells.Times, time: float) -> list[float]:
    """The measured time points next to `time`, at most one on each side."""
    points = times.points[~np.isclose(times.points, time, rtol=1e-9, atol=0)]
    return [*points[points < time][-1:], *points[points > time][:1]]


def _draw_around(ax: Axes, xy: np.ndarray, times: _cells.Times, around: list[float]) -> None:
    for point, grey in zip(around, ("#8f8f8f", "#cfcfcf"), strict=False):
        dots = xy[times.values == point]
        _cells.draw(ax, dots, color=grey, s=2.5, zorder=1, label=f"{times.unit} {point:g}")


def _share_limits(axes: np.ndarray, xy: np.ndarray) -> None:
    """Give all panels the limits that show all dots, with a margin."""
    low, high = xy.min(0), xy.max(0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    for ax in axes:
        ax.set_aspect("equal", adjustable="box")
        ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
        ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def _print_scores(ax: Axes, scores: Mapping[str, float]) -> None:
    if scores:
        text = "\n".join(f"{k} {_checks.number(v, 'scores'):.3g}" for k, v in scores.items())
        ax.annotate(
            text,
            (0.97, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=_frame.SMALL,
        )
