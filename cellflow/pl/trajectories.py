"""Simulated trajectories over the cells, as lines and as a film."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.pl import _cells, _frame
from cellflow.simulate import Trajectory
from cellflow.tl.projection import embedding, nearest_category, project_points

#: Width in points of the path of a cell of mass one, and the factors it is clipped to.
_WIDTH, _EXTREMES = 0.7, (0.15, 4.0)
#: Cells of which means and bands are made, at most and at least; shares of mass about a band.
_MOST, _LEAST, _BAND = 500, 5, (0.1, 0.9)
#: Cells that move, at most; dots per inch; and the factors that the area of a dot is clipped to.
_MOVING, _DPI, _AREAS = 2000, 150, (0.2, 5.0)


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
    palette: _cells.Palette | None = None,
    size: float | None = None,
    title: str | None = None,
    n_trajectories: int = 30,
    n_neighbors: int = 30,
    generator: Rng = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw simulated trajectories over the cells of an embedding.

    With categories as `color`, trajectories are grouped by the category of the place where they
    end. Each group that five of them or more reach has its mean path, on which dots mark the times
    of the snapshots, and a band across the path that holds the middle 80 % of the group at each
    time; both count cells by their masses. There is no mean without groups: between fates that
    part, it would lie where no cell is.

    A few trajectories are thin lines, in the colour of their group, else of their time (grey where
    `color` is numbers); a white dot marks each start. Where the method learned growth, a line is
    as wide as its cell's mass is large.

    Parameters
    ----------
    adata
        Cells to draw in the background, with the embedding.
    trajectory
        What :func:`cellflow.tl.simulate` returned, in the coordinates of `use_rep`.
    time_key, time_map
        Column of ``obs`` with the time of each cell, and the time of each label, where labels
        cannot be read.
    basis, dims, use_rep, n_neighbors
        As in :func:`cellflow.tl.project_points`, which places states in the embedding.
    color
        What colours the cells instead of their time: a column of ``obs``, or a gene, a name in
        ``var_names``. Cells without a value are grey.
    palette
        Colours of categories, one for each or by name, or the name of a colour map; when omitted,
        those of ``uns["<color>_colors"]``, else colours that differ. Of numbers, the name of the
        colour map.
    size, title
        Area of the cells' dots in points², when omitted the smaller the more cells there are; and
        title of the axes.
    n_trajectories, generator
        How many lines to draw, and seed or generator of the choice if there are more.
    ax
        Where to draw; a new figure when omitted.
    """
    values, table = _cells.read_times(adata, time_key, time_map)
    clock = trajectory.times.detach().cpu().numpy()
    times = _cells.time_coloring(values, table)
    times.norm.autoscale([*table.times, *clock])
    coloring = times if color is None else _cells.color_of(adata, color, palette)
    area = _cells.dot_size(adata.n_obs, size)
    xy = embedding(adata, basis, dims=dims)
    wanted = _checks.count(n_trajectories, "n_trajectories")
    order = torch.randperm(trajectory.x.shape[1], generator=_checks.as_generator(generator))
    grouped = isinstance(coloring, _cells.Categories)
    chosen = [order[:wanted].sort().values, order[wanted:_MOST] if grouped else order[:0]]
    x = trajectory.x.detach().cpu()[:, torch.cat(chosen)]
    mass = np.ones((x.shape[1], len(clock)))
    if trajectory.mass is not None:
        mass = trajectory.mass.detach().cpu().double().numpy()[:, torch.cat(chosen)].T
    where: dict[str, Any] = {"use_rep": use_rep, "n_neighbors": n_neighbors}
    flat = project_points(adata, x.flatten(0, 1), basis=basis, dims=dims, **where)
    paths = flat.reshape(len(clock), -1, 2).swapaxes(0, 1)
    inks = np.broadcast_to(to_rgba(_frame.DARK), (len(paths), len(clock) - 1, 4))
    if coloring is times:
        inks = np.broadcast_to(times.cmap(times.norm((clock[:-1] + clock[1:]) / 2)), inks.shape)
    ends, colors = np.full(len(paths), -1), np.empty((0, 4))
    if isinstance(coloring, _cells.Categories):
        ends = nearest_category(adata, x[-1], coloring.codes, **where)
        colors = np.vstack([coloring.colors, to_rgba(_frame.GREY)])  # the last for −1
        inks = np.broadcast_to(colors[ends][:, None], inks.shape)
    ax = _frame.axes(ax, size=(3.8, 3.0 + coloring.height))
    coloring.draw(ax, xy, s=area, alpha=0.35)
    coloring.explain(ax)
    _draw_paths(ax, paths[:wanted], mass[:wanted], inks[:wanted])
    for code in np.unique(ends[ends >= 0]):
        of = ends == code
        if of.sum() >= _LEAST and len(clock) > 1:
            band = mean_and_band(paths[of], mass[of])
            _draw_mean(ax, *band, color=colors[code])
            _mark_times(ax, band[0], clock, times, table.time_points)
    if grouped:
        times.explain(ax)
    _frame.dress_embedding(ax, basis, dims, title=title)
    return ax


def mean_and_band(paths: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean ``(T, 2)`` of `paths` ``(n, T, 2)``, and both edges of a band ``(T, 2)``.

    At each time, deviations from the mean are measured across its path; the band holds those
    between two quantiles. Cells count by their `mass` ``(n, T)``.
    """
    share = mass / mass.sum(0)
    mean = (share[..., None] * paths).sum(0)
    # The direction over several times, since paths of stochastic solvers are rough.
    wide, rows = max(1, len(mean) // 10), np.arange(len(mean))
    along = mean[np.minimum(rows + wide, len(mean) - 1)] - mean[np.maximum(rows - wide, 0)]
    along /= np.maximum(np.hypot(*along.T), np.finfo(float).tiny)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    aside = ((paths - mean) * across).sum(-1)
    order = aside.argsort(axis=0)
    aside, share = (np.take_along_axis(a, order, axis=0) for a in (aside, share))
    below = share.cumsum(0) - share / 2
    low, high = (
        np.array([np.interp(q, b, a) for b, a in zip(below.T, aside.T, strict=True)])[:, None]
        for q in _BAND
    )
    return mean, mean + low * across, mean + high * across


def _draw_mean(
    ax: Axes, mean: np.ndarray, low: np.ndarray, high: np.ndarray, *, color: np.ndarray
) -> None:
    """Draw a band and, on a white casing, its mean path with the head of an arrow."""
    ax.fill(*np.concatenate([low, high[::-1]]).T, color=color, alpha=0.25, lw=0, zorder=2)
    ax.plot(*mean.T, color="white", lw=3.4, alpha=0.8, zorder=4)
    ax.plot(*mean.T, color=color, lw=1.8, zorder=4)
    moved = np.flatnonzero(np.hypot(*(mean[-1] - mean).T))
    if len(moved):
        head = {"arrowstyle": "-|>", "color": color, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", mean[-1], mean[moved[-1]], arrowprops=head, zorder=4)


def _mark_times(
    ax: Axes, mean: np.ndarray, clock: np.ndarray, times: _cells.Numbers, points: Sequence[float]
) -> None:
    """Draw dots where a mean path is at the times of the snapshots, but for its end."""
    known = np.array([t for t in points if clock.min() <= t <= clock.max() and t != clock[-1]])
    order = clock.argsort()
    x, y = (np.interp(known, clock[order], mean[order, k]) for k in (0, 1))
    ring: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6}
    ax.scatter(x, y, c=known, cmap=times.cmap, norm=times.norm, s=18, zorder=5, **ring)


def _draw_paths(ax: Axes, paths: np.ndarray, mass: np.ndarray, inks: np.ndarray) -> None:
    """Draw paths (n, T, 2) on a white casing, each piece in its ink (n, T − 1, 4), with starts."""
    widths = _WIDTH * np.clip((mass[:, :-1] + mass[:, 1:]) / 2, *_EXTREMES)
    thick = 2 * widths.max(1, initial=0)
    casing = LineCollection(list(paths), colors="white", linewidths=thick, alpha=0.7, zorder=3)
    ax.add_collection(casing)
    pieces = np.stack([paths[:, :-1], paths[:, 1:]], axis=2).reshape(-1, 2, 2)
    lines = LineCollection(
        list(pieces), colors=inks.reshape(-1, 4), linewidths=widths.reshape(-1), zorder=3
    )
    lines.set_capstyle("round")
    ax.add_collection(lines)
    ring: dict[str, Any] = {"facecolors": "white", "edgecolors": _frame.DARK, "linewidths": 0.4}
    ax.scatter(paths[:, 0, 0], paths[:, 0, 1], s=5, zorder=3.5, **ring)


def animation(
    adata: AnnData,
    trajectory: Trajectory,
    file: str | Path | None = None,
    *,
    time_key: str,
    basis: str = "pca",
    dims: tuple[int, int] = (0, 1),
    use_rep: str = "X_pca",
    color: str | None = None,
    seconds: float = 4.0,
) -> FuncAnimation:
    """Let simulated cells move over the observed ones, a frame for each time of the trajectory.

    Where the method learned growth, a dot is as large as its cell's mass. Of more than 2,000 cells
    every so many are drawn.

    ``to_jshtml()`` shows the film in a notebook.

    Parameters
    ----------
    adata, trajectory, time_key, basis, dims, use_rep
        As in :func:`trajectories`.
    file
        Where to write: ``.gif``, or ``.mp4`` where ffmpeg is installed.
    color, seconds
        Column of ``obs`` with categories: cells that move have the colour of the place where they
        end, by ``uns["<color>_colors"]``; when omitted, the colour of the time. And how long it
        takes from the first time to the last.
    """
    clock = trajectory.times.detach().cpu().numpy()
    fps = len(clock) / _checks.number(seconds, "seconds", low=0, open_low=True)
    writer = None if file is None else _writer(Path(file), fps)
    some = slice(None, None, -(-trajectory.x.shape[1] // _MOVING))
    x = trajectory.x.detach().cpu()[:, some]
    where: dict[str, Any] = {"use_rep": use_rep}
    flat = project_points(adata, x.flatten(0, 1), basis=basis, dims=dims, **where)
    places = flat.reshape(len(clock), -1, 2)
    values, table = _cells.read_times(adata, time_key)
    times = _cells.time_coloring(values, table)
    times.norm.autoscale([*table.times, *clock])
    coloring = times if color is None else _cells.color_of(adata, color)
    xy = embedding(adata, basis, dims=dims)
    figure, ax = plt.subplots(figsize=(3.8, 3.2 + coloring.height), layout="constrained", dpi=_DPI)
    _cells.draw(ax, xy, color=_frame.GREY, alpha=0.35, zorder=1, s=_cells.dot_size(len(xy)))
    coloring.explain(ax)
    inks = times.cmap(times.norm(clock))[:, None]  # one for each time
    if isinstance(coloring, _cells.Categories):
        ends = nearest_category(adata, x[-1], coloring.codes, **where)
        inks = np.vstack([coloring.colors, to_rgba(_frame.DARK)])[ends][None]  # or each cell
    mass = torch.ones(places.shape[:2]) if trajectory.mass is None else trajectory.mass[:, some]
    areas = 1.5 * _cells.dot_size(places.shape[1]) * mass.detach().cpu().numpy().clip(*_AREAS)
    x0, y0 = places[0].T
    cells = ax.scatter(x0, y0, s=areas[0], linewidths=0, zorder=2)
    _frame.dress_embedding(ax, basis, dims, title=" ")  # room for the time
    ax.update_datalim(np.concatenate([xy, flat]))
    ax.autoscale_view()
    unit = f"{table.unit} " if table.unit else ""

    def show(k: int) -> tuple:
        cells.set_offsets(places[k])
        cells.set_sizes(areas[k])
        cells.set_facecolor(inks[min(k, len(inks) - 1)])
        ax.set_title(f"{unit}{clock[k]:.2f}", fontsize=_frame.FONT)
        return (cells,)

    figure.canvas.draw()
    figure.set_layout_engine("none")  # else each frame finds the same again
    film = FuncAnimation(figure, show, frames=len(clock), interval=1000 / fps)
    if writer is not None:
        film.save(str(file), writer=writer, dpi=_DPI)
    plt.close(figure)
    return film


def _writer(file: Path, fps: float) -> AbstractMovieWriter:
    """What writes a file of this name."""
    writers: dict[str, Any] = {".gif": PillowWriter, ".mp4": FFMpegWriter}
    writer = writers[_checks.choice(file.suffix, tuple(writers), "file")]
    if not writer.isAvailable():
        remedy = "Install ffmpeg, or write a .gif."
        raise ValueError(_checks.message("file", f"{file.suffix!r}", "what ffmpeg writes", remedy))
    return writer(fps=fps)
