"""Velocities over an embedding, as streams or arrows on a grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow import _checks
from cellflow.pl import _cells, _frame
from cellflow.pp.access import column_of
from cellflow.tl.projection import embedding

if TYPE_CHECKING:
    from anndata import AnnData


#: Standard deviation of the kernel, in cells of the grid.
_KERNEL = 1.0
#: A node is drawn if this many cells lie under its kernel, counted by weight.
_LEAST = 3.0


def velocity(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    time_key: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    color: str | None = None,
    kind: str = "stream",
    n_grid: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draw velocities, averaged on a grid, over the cells of an embedding.

    Parameters
    ----------
    adata
        Cells with the embedding and ``obsm["velocity_<basis>"]``, as :func:`cellflow.tl.velocity`
        writes it, in embedding units per unit of time.
    basis, dims, time_key, time_map, color, ax
        As in :func:`trajectories`; cells are grey without `time_key` and `color`.
    kind
        ``"stream"`` for stream lines, ``"grid"`` for arrows as long as the velocity.
    n_grid
        Nodes of the grid along the longer side.
    """
    _checks.choice(kind, ("stream", "grid"), "kind")
    n_grid = _checks.count(n_grid, "n_grid", low=4)
    xy = embedding(adata, basis, dims=dims)
    v = _velocities(adata, basis, dims)
    times = None if time_key is None else _cells.read_times(adata, time_key, time_map)
    column = None if color is None else column_of(adata, color, "color")
    ax = _frame.axes(ax, size=(3.8, 3.0))
    if column is not None:
        _cells.draw_column(ax, xy, column, bar=True, alpha=0.5, zorder=1)
    elif times is not None:
        values, table = times
        norm = Normalize(table.times[0], table.times[-1])
        _cells.draw_values(ax, xy, values, norm=norm, alpha=0.5, zorder=1)
        _frame.colorbar(ax, norm, _frame.plural(table.unit))
    else:
        _cells.draw(ax, xy, color=_frame.GREY, zorder=1)
    if kind == "stream":
        _draw_streams(ax, *average(xy, v, n_grid))
    else:
        _draw_arrows(ax, *average(xy, v, n_grid))
    _frame.dress_embedding(ax, basis, dims)
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

    Returns coordinates of the nodes ``(nx,)`` and ``(ny,)``, with one spacing and `n_grid` along
    the longer side; averages ``(ny, nx, 2)``, zero without cells; and whether there are enough
    cells around a node to say anything ``(ny, nx)``. Places `xy` and `vectors` are ``(n, 2)``.
    """
    low, high = xy.min(0), xy.max(0)
    step = max(float((high - low).max()), 1e-12) / (n_grid - 1)
    x, y = (np.arange(low[k], high[k] + 1.5 * step, step) for k in (0, 1))
    # The kernel is a product, so its sums over cells are matrix products.
    kx, ky = (
        np.exp(-(((nodes[:, None] - xy[:, k]) / (_KERNEL * step)) ** 2) / 2)
        for k, nodes in enumerate((x, y))
    )
    weight = ky @ kx.T
    total = np.stack([ky @ (kx * vectors[:, k]).T for k in (0, 1)], axis=-1)
    near = weight >= _LEAST
    mean = np.divide(
        total, weight[..., None], out=np.zeros_like(total), where=weight[..., None] > 0
    )
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
    ax: Axes, x: np.ndarray, y: np.ndarray, mean: np.ndarray, near: np.ndarray
) -> None:
    """Draw arrows, of which the longest but a few spans one and a half cells of the grid."""
    place = np.stack(np.meshgrid(x, y), axis=-1)[near]
    arrow = mean[near]
    speed = np.hypot(*arrow.T)
    long = np.quantile(speed, 0.95) if len(speed) else 0.0
    if not long > 0:
        return
    scale: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": long / (1.5 * (x[1] - x[0])),
    }
    head: dict[str, Any] = {"width": 0.0035, "headwidth": 4, "headlength": 5, "headaxislength": 4.5}
    ax.quiver(*place.T, *arrow.T, color=_frame.DARK, zorder=3, **scale, **head)
