"""Simulated trajectories over the cells."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.pl import _cells, _frame
from cellflow.pp.access import column_of
from cellflow.simulate import Trajectory
from cellflow.tl.projection import embedding, project_points

if TYPE_CHECKING:
    from anndata import AnnData

#: Width in points of the path of a cell of mass one, and the factors it is clipped to.
_WIDTH, _EXTREMES = 0.7, (0.15, 4.0)


def trajectories(
    adata: AnnData,
    trajectory: Trajectory,
    *,
    time_key: str,
    basis: str = "pca",
    dims: tuple[int, int] = (0, 1),
    use_rep: str = "X_pca",
    time_map: Mapping[Hashable, float] | None = None,
    color: str | None = None,
    n_trajectories: int = 100,
    n_neighbors: int = 30,
    generator: Rng = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw simulated trajectories over the cells of an embedding.

    Cells and trajectories are coloured by time, on one scale; a white dot marks each start. Where
    the method learned growth, a line is as wide as its cell's mass is large.

    Parameters
    ----------
    adata
        Cells to draw in the background, with the embedding.
    trajectory
        What a simulation returned, in the coordinates of `use_rep`.
    time_key, time_map
        Column of ``obs`` with the time of each cell, and the time of each label, where labels
        cannot be read.
    basis, dims, use_rep, n_neighbors
        As in :func:`cellflow.tl.project_points`, which places states in the embedding.
    color
        Column of ``obs`` that colours the cells instead of their time.
    n_trajectories, generator
        How many to draw, and seed or generator of the choice if there are more.
    ax
        Where to draw; a new figure when omitted.
    """
    if not isinstance(trajectory, Trajectory):
        got, remedy = type(trajectory).__name__, "Call `simulate` on a fit."
        raise TypeError(_checks.message("trajectory", got, "a Trajectory", remedy))
    values, table = _cells.read_times(adata, time_key, time_map)
    column = None if color is None else column_of(adata, color, "color")
    xy = embedding(adata, basis, dims=dims)
    n, wanted = trajectory.x.shape[1], _checks.count(n_trajectories, "n_trajectories")
    order = torch.randperm(n, generator=_checks.as_generator(generator))
    chosen = order[:wanted].sort().values
    x = trajectory.x.detach().cpu()[:, chosen]
    cells = x.reshape(-1, x.shape[-1])
    flat = project_points(
        adata, cells, basis=basis, dims=dims, use_rep=use_rep, n_neighbors=n_neighbors
    )
    paths = flat.reshape(*x.shape[:2], 2).swapaxes(0, 1)
    ax = _frame.axes(ax, size=(3.8, 3.0))
    clock = trajectory.times.detach().cpu().numpy()
    norm = Normalize(min(table.times[0], clock.min()), max(table.times[-1], clock.max()))
    if column is None:
        _cells.draw_values(ax, xy, values, norm=norm, alpha=0.35, zorder=1)
    else:
        _cells.draw_column(ax, xy, column, bar=False, alpha=0.35, zorder=1)
    mass = None if trajectory.mass is None else trajectory.mass[:, chosen.to(trajectory.x.device)]
    _draw_paths(ax, paths, clock, norm=norm, widths=_widths(mass, len(paths)))
    _frame.dress_embedding(ax, basis, dims)
    _frame.colorbar(ax, norm, _frame.plural(table.unit))
    return ax


def _widths(mass: torch.Tensor | None, n: int) -> np.ndarray:
    """Width of each piece of each path in points, shape (n, T − 1), or (n, 1) if all are equal."""
    if mass is None:
        return np.full((n, 1), _WIDTH)
    middle = (0.5 * (mass[:-1] + mass[1:])).detach().cpu().double().numpy().T
    return _WIDTH * np.clip(middle, *_EXTREMES)


def _draw_paths(
    ax: Axes, paths: np.ndarray, clock: np.ndarray, *, norm: Normalize, widths: np.ndarray
) -> None:
    """Draw paths (n, T, 2) in the colours of their times, on a white casing, with their starts."""
    casing = LineCollection(
        list(paths), colors="white", linewidths=2 * widths.max(1), alpha=0.7, zorder=2
    )
    ax.add_collection(casing)
    pieces = np.stack([paths[:, :-1], paths[:, 1:]], axis=2).reshape(-1, 2, 2)
    middles = np.tile((clock[:-1] + clock[1:]) / 2, len(paths))
    widths = np.broadcast_to(widths, (len(paths), len(clock) - 1)).reshape(-1)
    lines = LineCollection(
        list(pieces), cmap=_frame.TIME_COLORS, norm=norm, linewidths=widths, zorder=3
    )
    lines.set_capstyle("round")
    lines.set_array(middles)
    ax.add_collection(lines)
    ring: dict[str, Any] = {"facecolors": "white", "edgecolors": _frame.DARK, "linewidths": 0.4}
    x, y = paths[:, 0].T
    ax.scatter(x, y, s=5, zorder=4, **ring)
