"""Carry points and velocities from a representation into a two-dimensional embedding."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from cellflow import _checks
from cellflow._typing import ArrayLike
from cellflow.answers import shares_near
from cellflow.pp.access import find_representation

#: Rows handled at once, so that memory does not grow with the number of cells.
_CHUNK = 4096


def embedding(adata: AnnData, basis: str, *, dims: tuple[int, int] = (0, 1)) -> np.ndarray:
    """Return dimensions `dims` of an embedding, a key of ``obsm``, shape ``(n, 2)``, float64."""
    key, stored = find_representation(adata, basis, "basis")
    values = _dense(stored, key)
    try:
        first, second = (_checks.count(k, "dims", low=0) for k in dims)
    except (TypeError, ValueError):
        first = second = -1
    if first == second or max(first, second) >= values.shape[1]:
        expected = f"two different integers from 0 to {values.shape[1] - 1}"
        raise ValueError(_checks.message("dims", repr(dims), expected))
    return values[:, [first, second]]


def project_points(
    adata: AnnData,
    points: ArrayLike,
    *,
    basis: str,
    dims: tuple[int, int] = (0, 1),
    use_rep: str = "X_pca",
    n_neighbors: int = 30,
    bandwidth: float | None = None,
) -> np.ndarray:
    """Place states in an embedding: the weighted mean of the nearest cells' coordinates.

    The weight of a cell at distance r is exp(−r²/2h²) (Nadaraya and Watson's regression), so a
    point never leaves the range of its neighbours. Where the embedding is two columns of the
    representation itself, the answer is those columns of `points`, exactly.

    Parameters
    ----------
    adata
        Reference cells with both representation and embedding.
    points
        States, shape ``(m, d)``: the first ``d`` columns of the representation.
    basis, dims
        The embedding, a key of ``obsm`` (``"umap"`` is short for ``"X_umap"``), and which two of
        its dimensions, counted from 0.
    use_rep
        The representation, a key of ``obsm``, or ``"X"``.
    n_neighbors, bandwidth
        How many cells to average; and h, in the representation's units, half the distance to the
        farthest of the neighbours, for each point, when omitted.

    Returns
    -------
    Coordinates in the embedding, shape ``(m, 2)``, float64.
    """
    n_neighbors = _checks.count(n_neighbors, "n_neighbors")
    if bandwidth is not None:
        bandwidth = _checks.number(bandwidth, "bandwidth", low=0.0, open_low=True)
    target, reference, z = _spaces(
        adata, points, basis=basis, dims=dims, use_rep=use_rep, name="points"
    )
    if reference is None:
        return z[:, list(dims)]
    out = np.empty((len(z), 2))
    for rows, distance, index in _neighbors(reference, z, n_neighbors):
        h = distance[:, -1:] / 2 if bandwidth is None else bandwidth
        h = np.maximum(h, np.finfo(float).tiny ** 0.25)  # all neighbours may be duplicates
        # Relative to the nearest cell, so that weights never all underflow.
        weight = np.exp(-(distance**2 - distance[:, :1] ** 2) / (2 * h**2))
        weight /= weight.sum(1, keepdims=True)
        out[rows] = np.einsum("mk,mkc->mc", weight, target[index])
    return out


def nearest_category(
    adata: AnnData,
    points: ArrayLike,
    codes: np.ndarray,
    *,
    use_rep: str = "X_pca",
    n_neighbors: int = 30,
) -> np.ndarray:
    """Return the likeliest of the `codes` ``(n,)`` by the cells around each of `points`.

    `points` are ``(m, d)``, in the first ``d`` columns of `use_rep`; the answer is ``(m,)``. Codes
    below zero do not count; −1 is the answer if there are no others. `n_neighbors` cells are asked:
    see :func:`cellflow.answers.shares_near`.
    """
    reference, z = _reference(adata, points, use_rep=use_rep, name="points")
    known = np.flatnonzero(codes >= 0)
    if len(known) == 0:
        return np.full(len(z), -1)
    marks = np.eye(codes.max() + 1)[codes[known]]
    places, cells, marks = (torch.from_numpy(a) for a in (z, reference[known], marks))
    return shares_near(places, cells, marks, neighbours=n_neighbors).argmax(1).numpy()


def project_velocity(
    adata: AnnData,
    velocity: ArrayLike,
    *,
    basis: str,
    dims: tuple[int, int] = (0, 1),
    use_rep: str = "X_pca",
    n_neighbors: int = 30,
    sharpness: float = 10.0,
) -> np.ndarray:
    """Project velocities into an embedding through the directions of each cell's neighbours.

    A cell steps to neighbour j with probability proportional to exp(κ cos_j), where cos_j is the
    cosine between its velocity and the way to j, as in RNA-velocity plots (La Manno et al. 2018,
    Nature 560; Bergen et al. 2020, Nature Biotechnology 38). The expected step, less the step
    under uniform probabilities, has a component along the velocity in the representation and an
    image in the embedding; their ratio turns velocities into embedding units per unit of time.
    Hence a linear embedding answers with the linear image of the velocity, up to how evenly the
    neighbours surround the cell. Where the embedding is two columns of the representation itself,
    the answer is those columns of `velocity`, exactly.

    Parameters
    ----------
    adata
        Cells with both representation and embedding.
    velocity
        One velocity a cell, shape ``(n, d)``, in the first ``d`` columns of the representation.
    basis, dims, use_rep
        As in :func:`project_points`.
    n_neighbors, sharpness
        Neighbours that a cell may step to; and κ: how strongly those ahead are preferred.

    Returns
    -------
    Velocities in embedding units per unit of time, shape ``(n, 2)``, float64; zero for a cell
    without velocity or with all its neighbours in one direction.
    """
    n_neighbors = _checks.count(n_neighbors, "n_neighbors", low=2)
    sharpness = _checks.number(sharpness, "sharpness", low=0.0, open_low=True)
    velocity = _checks.as_cells(velocity, "velocity").numpy()
    if len(velocity) != adata.n_obs:
        got, expected = f"{len(velocity)} rows", f"{adata.n_obs}, one for each cell"
        raise ValueError(_checks.message("velocity", got, expected))
    target, reference, v = _spaces(
        adata, velocity, basis=basis, dims=dims, use_rep=use_rep, name="velocity"
    )
    if reference is None:
        return v[:, list(dims)]
    out = np.empty((len(v), 2))
    for rows, distance, index in _neighbors(reference, reference, n_neighbors + 1):
        way = reference[index] - reference[rows, None]
        # The cell itself and its duplicates lie in no direction.
        near = distance > 0
        inverse = np.divide(1.0, distance, out=np.zeros_like(distance), where=near)
        speed = np.linalg.norm(v[rows], axis=1)
        size = speed[:, None]
        unit = np.divide(v[rows], size, out=np.zeros_like(v[rows]), where=size > 0)
        cosine = np.einsum("nkd,nd->nk", way, unit) * inverse
        weight = np.where(near, np.exp(sharpness * (cosine - 1)), 0.0)
        weight /= np.maximum(weight.sum(1, keepdims=True), np.finfo(float).tiny)
        weight -= near / np.maximum(near.sum(1, keepdims=True), 1)
        # Never negative: probabilities increase with the cosine.
        along = (weight * cosine).sum(1)
        image = np.einsum("nk,nkc->nc", weight * inverse, target[index] - target[rows, None])
        scale = np.divide(speed, along, out=np.zeros_like(along), where=along > 1e-9)
        out[rows] = image * scale[:, None]
    return out


def _spaces(
    adata: AnnData, values: ArrayLike, *, basis: str, dims: tuple[int, int], use_rep: str, name: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Embedding (n, 2), representation (n, d) or None if they are the same, and values (m, d)."""
    target = embedding(adata, basis, dims=dims)
    reference, values = _reference(adata, values, use_rep=use_rep, name=name)
    same = values.shape[1] > max(dims) and np.array_equal(reference[:, list(dims)], target)
    return target, None if same else reference, values


def _reference(
    adata: AnnData, values: ArrayLike, *, use_rep: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Representation of the cells (n, d), and values (m, d)."""
    key, stored = find_representation(adata, use_rep)
    values = _checks.as_cells(values, name).detach().cpu().numpy().astype(np.float64)
    d = values.shape[1]
    if d > stored.shape[1]:
        got, expected = f"{d} dimensions", f"at most {stored.shape[1]}, those of {key}"
        raise ValueError(_checks.message(name, got, expected, "Name their `use_rep`."))
    reference = _dense(stored[:, :d] if not hasattr(stored, "iloc") else stored.iloc[:, :d], key)
    return reference, values


def _dense(stored, key: str) -> np.ndarray:
    values = stored.to_numpy() if hasattr(stored, "to_numpy") else stored
    cells = _checks.as_cells(values, "X" if key == "X" else f"obsm[{key!r}]")
    return cells.numpy().astype(np.float64)


def _neighbors(reference: np.ndarray, points: np.ndarray, n_neighbors: int):
    """Yield rows of `points` with the distances and indices of their nearest cells."""
    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(reference))).fit(reference)
    for start in range(0, len(points), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(points)))
        yield rows, *search.kneighbors(points[rows])
