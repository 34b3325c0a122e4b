"""Averages of vectors on a regular grid."""

from __future__ import annotations

import numpy as np

#: Standard deviation of the kernel, in cells of the grid.
_KERNEL = 1.0
#: A node is drawn if this many cells lie under its kernel, counted by weight.
_LEAST = 3.0


def average(
    xy: np.ndarray, vectors: np.ndarray, n_grid: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average vectors on a square grid with a Gaussian kernel.

    Parameters
    ----------
    xy, vectors
        Places and vectors, shape ``(n, 2)``.
    n_grid
        Nodes along the longer side.

    Returns
    -------
    x, y
        Coordinates of the nodes, shapes ``(nx,)`` and ``(ny,)``, with one spacing.
    mean
        Averages, shape ``(ny, nx, 2)``; zero where there are no cells.
    near
        Whether there are enough cells around a node to say anything, shape ``(ny, nx)``.
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
