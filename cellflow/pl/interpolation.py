"""The interpolated day beside the real one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow import _checks
from cellflow._typing import ArrayLike
from cellflow.pl import _cells, _frame
from cellflow.pp.access import find_representation
from cellflow.timecourse import Snapshot
from cellflow.tl.projection import embedding, project_points

_PREDICTED, _REAL = _frame.PALETTE[1], _frame.PALETTE[0]
#: Time points before and after.
_GREYS = ("#8f8f8f", "#cfcfcf")


def interpolation(
    adata: AnnData,
    predicted: Snapshot | AnnData | ArrayLike,
    *,
    time_key: str,
    time: float | None = None,
    truth: Snapshot | AnnData | ArrayLike | None = None,
    basis: str = "pca",
    dims: tuple[int, int] = (0, 1),
    use_rep: str = "X_pca",
    time_map: Mapping[Hashable, float] | None = None,
    scores: Mapping[str, float] | None = None,
    n_neighbors: int = 30,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the cells predicted at a time beside the cells that were measured then.

    The time points before and after are grey in every panel. The first panel shows the measured
    cells, if `adata` has cells of that time, the last one the predicted cells. Where predicted
    cells or `truth` have masses that differ, dots have an area in proportion to them.

    Parameters
    ----------
    adata, time_key
        Measured cells, with the embedding and their times, as in :func:`trajectories`.
    predicted, time
        Predicted cells: a snapshot, what :func:`cellflow.tl.interpolate` returned, or an array
        ``(m, d)`` in the representation `use_rep`, which needs their time.
    truth
        Cells measured at that time, as `predicted`; those of `adata` when omitted.
    basis, dims, use_rep, time_map, n_neighbors
        As in :func:`trajectories`, for predicted cells.
    scores
        Numbers to print below the predicted cells, for example ``{"W1": 8.1, "floor": 7.4}``.
    ax
        Where to draw: an axes for the measured cells, where there are some, and one for the
        predicted ones, which are returned; a new figure when omitted.
    """
    time = _time(predicted, time)
    values, table = _cells.read_times(adata, time_key, time_map)
    xy = embedding(adata, basis, dims=dims)

    def place(cells: Snapshot | AnnData | ArrayLike) -> np.ndarray:
        x: ArrayLike = cells.x if isinstance(cells, Snapshot) else cells
        if isinstance(cells, AnnData):
            x = find_representation(cells, use_rep)[1]
        return project_points(
            adata, x, basis=basis, dims=dims, use_rep=use_rep, n_neighbors=n_neighbors
        )

    same = np.isclose(values, time, rtol=1e-9, atol=0)
    real = xy[same] if truth is None else place(truth)
    areas = 1.0 if truth is None else _areas(truth)
    panels = {"measured": (real, _REAL, areas)} if len(real) else {}
    panels["interpolated"] = (place(predicted), _PREDICTED, _areas(predicted))
    points = np.array(table.time_points)
    points = points[~np.isclose(points, time, rtol=1e-9, atol=0)]
    # The measured time points next to `time`, at most one on each side.
    near = [*points[points < time][-1:], *points[points > time][:1]]
    around = {point: xy[values == point] for point in near}
    shown = np.concatenate([*around.values(), *(dots for dots, *_ in panels.values())])
    axes = _frame.row_of_axes(ax, len(panels), extent=np.ptp(shown, axis=0))
    for panel, (name, (dots, color, areas)) in zip(axes, panels.items(), strict=True):
        for (point, grey_dots), grey in zip(around.items(), _GREYS, strict=False):
            label = f"{table.unit} {point:g}"
            _cells.draw(panel, grey_dots, color=grey, s=2.5, zorder=1, label=label)
        size = float(np.clip(2500 / len(dots), 1, 5)) * areas
        _cells.draw(panel, dots, color=color, s=size, alpha=0.7, zorder=2, label=name)
        _frame.dress_embedding(panel, basis, dims)
        panel.set_title(f"{table.unit} {time:g}, {name}", fontsize=_frame.FONT, color=color)
    _share_limits(axes, shown)
    if around:
        handles = axes[0].get_legend_handles_labels()[0][: len(around)]
        _frame.legend_below(axes[0], handles=handles, markerscale=2.5)
    _print_scores(axes[-1], scores or {}, below=len(axes) > 1)
    return axes


def _time(predicted: Snapshot | AnnData | ArrayLike, time: float | None) -> float:
    """The time asked for, or that of the predicted cells."""
    if time is None and isinstance(predicted, Snapshot):
        time = predicted.time
    if time is None and hasattr(predicted, "uns"):
        time = predicted.uns.get("interpolation", {}).get("time")
    if time is None:
        got = f"None with {type(predicted).__name__}"
        raise ValueError(_checks.message("time", got, "the time of the predicted cells"))
    return _checks.number(time, "time")


def _areas(cells: Snapshot | AnnData | ArrayLike) -> np.ndarray | float:
    """Areas of the cells' dots relative to the mean: their masses, if these differ."""
    mass = np.ones(1)
    if isinstance(cells, Snapshot):
        mass = cells.mass.detach().cpu().double().numpy()
    elif hasattr(cells, "obs") and "mass" in cells.obs:
        mass = cells.obs["mass"].to_numpy(dtype=float)
    return 1.0 if np.ptp(mass) == 0 else mass / mass.mean()


def _share_limits(axes: np.ndarray, xy: np.ndarray) -> None:
    """Give all panels the limits that show all dots, with a margin."""
    low, high = xy.min(0), xy.max(0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    for ax in axes:
        ax.set_aspect("equal", adjustable="box")
        ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
        ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def _print_scores(ax: Axes, scores: Mapping[str, float], *, below: bool) -> None:
    """Print numbers below the axes, or in their corner where the legend is below."""
    text = "   ".join(f"{k} {_checks.number(v, 'scores'):.3g}" for k, v in scores.items())
    place, align = ((0.5, -0.16), "center") if below else ((0.98, 1.0), "right")
    ax.annotate(text, place, xycoords="axes fraction", ha=align, va="top", fontsize=_frame.SMALL)
