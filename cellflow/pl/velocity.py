"""Velocities over an embedding, as streams or arrows on a grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.spatial import cKDTree

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.tl.projection import embedding

#: Cells within the width of the kernel around a node that is drawn; and length of a long arrow.
_LEAST, _LONG = 3, 0.85


def velocity(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    time_key: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    color: str | None = None,
    palette: _cells.Palette | None = None,
    size: float | None = None,
    title: str | None = None,
    kind: str = "stream",
    n_grid: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw velocities, averaged on a grid, over the cells of an embedding.

    Of cells `adata` with the embedding and ``obsm["velocity_<basis>"]``, as
    :func:`cellflow.tl.velocity` writes it, in embedding units per unit of time; with `basis`,
    `dims`, `time_key`, `time_map`, `color`, `palette`, `size`, `title` and `ax` as in
    :func:`trajectories`; cells are grey without `time_key` and `color`. The `kind` is ``"stream"``
    for stream lines, the wider the faster cells move, or ``"grid"`` for arrows as long as the
    velocity, with a scale in units of the embedding per unit of time. The grid has `n_grid` nodes
    along the longer side. Nothing is drawn where no cells are.
    """
    _checks.choice(kind, ("stream", "grid"), "kind")
    n_grid = _checks.count(n_grid, "n_grid", low=4, high=1000)
    xy = embedding(adata, basis, dims=dims)
    v = _velocities(adata, basis, dims)
    written = str(adata.uns.get("velocity_fit", {}).get("unit", ""))  # "data units per day"
    unit = written.rpartition(" per ")[2] or "unit of time"
    coloring: _cells.Coloring | None = None
    if time_key is not None:
        values, table = _cells.read_times(adata, time_key, time_map)
        coloring, unit = _cells.time_coloring(values, table), table.unit
    if color is not None:
        coloring = _cells.color_of(adata, color, palette)
    area = _cells.dot_size(len(xy), size)
    ax = _frame.axes(ax, size=(3.8, 3.0 + (coloring.height if coloring else 0)))
    if coloring is None:
        _cells.draw(ax, xy, color=_frame.GREY, s=area, zorder=1)
    else:
        coloring.draw(ax, xy, s=area, alpha=0.5)
        coloring.explain(ax)
    _frame.dress_embedding(ax, basis, dims, title=title)
    if kind == "stream":
        _draw_streams(ax, *average(xy, v, n_grid))
    else:
        _draw_arrows(ax, *average(xy, v, n_grid), unit=unit)
    return ax


def _velocities(adata: AnnData, basis: str, dims: tuple[int, int]) -> np.ndarray:
    """Return the velocities in two dimensions of the embedding, shape (n, 2)."""
    key = f"velocity_{basis.removeprefix('X_')}"
    if key not in adata.obsm:
        have = [k for k in adata.obsm if k.startswith("velocity_")]
        got = f"obsm without {key!r} (it has {', '.join(map(repr, have)) or 'no velocity'})"
        remedy = "Run cellflow.tl.velocity(adata, fit, …) with this basis first."
        raise ValueError(_checks.message("basis", got, f"obsm[{key!r}]", remedy))
    return embedding(adata, key, dims=dims)


def average(
    xy: np.ndarray, vectors: np.ndarray, n_grid: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average vectors on a square grid with a Gaussian kernel.

    Its standard deviation is the spacing of the grid, or more where cells are so few that over a
    quarter of them have fewer than three others that close.

    Returns coordinates of the nodes ``(nx,)`` and ``(ny,)``, with one spacing and `n_grid` along
    the longer side; averages ``(ny, nx, 2)``, zero without cells; and whether there are enough
    cells close to a node to say anything ``(ny, nx)``. Places `xy` and `vectors` are ``(n, 2)``.
    """
    low, high = xy.min(0), xy.max(0)
    step = max(float((high - low).max()), 1e-12) / (n_grid - 1)
    x, y = (np.arange(low[k], high[k] + 1.5 * step, step) for k in (0, 1))
    tree = cKDTree(xy)
    far = tree.query(xy, k=[min(_LEAST + 1, len(xy))])[0]  # the nearest is the cell itself
    width = max(step, float(np.quantile(far, 0.75)))
    # The kernel is a product, so its sums over cells are matrix products.
    apart = ((nodes[:, None] - xy[:, k]) / width for k, nodes in enumerate((x, y)))
    kx, ky = (np.exp(-(gap**2) / 2) for gap in apart)
    weight = (ky @ kx.T)[..., None]
    total = np.stack([ky @ (kx * vectors[:, k]).T for k in (0, 1)], axis=-1)
    # By distance, not by weight: the kernel of a dense place reaches far into an empty one.
    nodes = np.stack(np.meshgrid(x, y), axis=-1)
    near = tree.query(nodes, k=[_LEAST])[0][..., 0] <= width
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return x, y, mean, near


def _draw_streams(
    ax: Axes, x: np.ndarray, y: np.ndarray, mean: np.ndarray, near: np.ndarray
) -> None:
    u, v = (np.where(near, mean[..., k], np.nan) for k in (0, 1))
    speed = np.hypot(u, v)
    style: dict[str, Any] = {"density": 1.2, "arrowsize": 0.7, "arrowstyle": "-|>"}
    top = np.nanmax(speed) if near.any() else 0.0
    if not top > 0:
        return
    width = 0.4 + 0.8 * np.nan_to_num(speed) / top
    u, v = np.ma.masked_invalid(u), np.ma.masked_invalid(v)
    streams = ax.streamplot(x, y, u, v, linewidth=width, color=_frame.DARK, zorder=3, **style)
    # Else the axes would end exactly where the grid does, cutting dots in half.
    streams.lines.sticky_edges.x[:] = streams.lines.sticky_edges.y[:] = []
    ax.autoscale_view()


def _draw_arrows(
    ax: Axes, x: np.ndarray, y: np.ndarray, mean: np.ndarray, near: np.ndarray, *, unit: str
) -> None:
    """Draw arrows, of which the longest but a few span a cell of the grid, and a scale."""
    place = np.stack(np.meshgrid(x, y), axis=-1)[near]
    arrow = mean[near]
    speed = np.hypot(*arrow.T)
    long = np.quantile(speed, 0.95) if len(speed) else 0.0
    if not long > 0:
        return
    scale = {"angles": "xy", "scale_units": "xy", "scale": long / (_LONG * (x[1] - x[0]))}
    head = {"width": 0.0035, "headwidth": 3.5, "headlength": 4, "headaxislength": 3.6}
    style: dict[str, Any] = {"color": _frame.DARK, "zorder": 3, **scale, **head}
    arrows = ax.quiver(*place.T, *arrow.T, **style)
    known = _frame.round_below(2 * long)
    text: dict[str, Any] = {"labelpos": "W", "fontproperties": {"size": _frame.SMALL}}
    ax.quiverkey(arrows, 0.93, -0.045, known, f"{known:g} / {unit}", **text)
