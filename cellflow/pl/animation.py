"""Simulated cells that move over an embedding, as a film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.colors import to_rgba

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.simulate import Trajectory
from cellflow.tl.projection import embedding, nearest_category, project_points

#: Cells that move, at most; dots per inch; and the factors that the area of a dot is clipped to.
_MOST, _DPI, _EXTREMES = 2000, 150, (0.2, 5.0)


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

    Returns
    -------
    matplotlib.animation.FuncAnimation
        ``to_jshtml()`` shows it in a notebook.
    """
    clock = trajectory.times.detach().cpu().numpy()
    fps = len(clock) / _checks.number(seconds, "seconds", low=0, open_low=True)
    writer = None if file is None else _writer(Path(file), fps)
    some = slice(None, None, -(-trajectory.x.shape[1] // _MOST))
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
    areas = 1.5 * _cells.dot_size(places.shape[1]) * mass.detach().cpu().numpy().clip(*_EXTREMES)
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
