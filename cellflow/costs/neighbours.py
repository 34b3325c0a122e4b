"""Neighbour graphs of cells, and distances along them. Everything here is numpy, on the CPU.

Shortest paths along a graph of nearest neighbours approximate geodesics of the manifold that the
cells are drawn from (Tenenbaum, de Silva and Langford, 2000, "A global geometric framework for
nonlinear dimensionality reduction").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from scipy.sparse import csgraph

from cellflow.costs.distances import squared_distance

#: Entries of a dense work array; what is larger is done in parts.
CHUNK = 2**23
#: Nodes and dimensions from which on neighbours are searched approximately, if pynndescent is
#: installed. Below, the exact search takes at most about half a minute.
LARGE, HIGH = 60_000, 15


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected, connected graph whose `edges` ``(e, 2)`` have `lengths` ``(e,)``.

    `component` ``(n,)`` are the components of its nodes before bridges joined them.
    """

    edges: np.ndarray
    lengths: np.ndarray
    component: np.ndarray

    def paths(self, origins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Lengths of the shortest paths from `origins` to `ends`, shape ``(origins, ends)``."""
        # Few at a time: Dijkstra's algorithm visits, and writes out, all nodes for each.
        parts = np.array_split(origins, math.ceil(len(origins) * len(self.component) / CHUNK))
        found = [csgraph.dijkstra(self._lengths, indices=part)[:, ends] for part in parts]
        return np.concatenate(found)

    @cached_property
    def _lengths(self) -> sparse.csr_matrix:
        i, j = self.edges.T
        n = len(self.component)
        both = (np.concatenate([i, j]), np.concatenate([j, i]))
        # Lengths of zero (repeated cells) stay edges: nothing here prunes explicit zeros.
        return sparse.csr_matrix((np.concatenate([self.lengths, self.lengths]), both), shape=(n, n))


def neighbour_graph(x: np.ndarray, n_neighbors: int) -> Graph:
    """Join each of two or more points ``(n, d)``, float64, to its nearest neighbours.

    Where the neighbours fall into components, these are joined like a minimum spanning tree, each
    pair by the one shortest edge between them. Of few points all others are neighbours.
    """
    n = len(x)
    near = _neighbours(x, min(n_neighbors, n - 1))
    pairs = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()], 1)
    keys = np.unique(pairs.min(1) * n + pairs.max(1))
    edges = np.stack([keys // n, keys % n], 1)
    component = _components(edges, n)
    edges = np.concatenate([edges, _bridges(x, component)])
    step = max(1, CHUNK // x.shape[1])
    parts = np.split(edges, range(step, len(edges), step))
    gaps = (x[part[:, 0]] - x[part[:, 1]] for part in parts)
    return Graph(edges, np.concatenate([np.sqrt((gap * gap).sum(1)) for gap in gaps]), component)


def _neighbours(x: np.ndarray, k: int) -> np.ndarray:
    """Return the `k` nearest other points of each, shape ``(n, k)``."""
    if len(x) >= LARGE and x.shape[1] >= HIGH:
        try:
            from pynndescent import NNDescent
        except ImportError:
            pass
        else:
            near = NNDescent(x, n_neighbors=k + 1, random_state=0, n_jobs=1).neighbor_graph[0]
            itself = near == np.arange(len(x))[:, None]
            itself[~itself.any(1), -1] = True  # drop the farthest where a point missed itself
            return near[~itself].reshape(len(x), k).astype(np.int64)
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)


def _components(edges: np.ndarray, n: int) -> np.ndarray:
    ones = sparse.csr_matrix((np.ones(len(edges)), edges.T), shape=(n, n))
    return csgraph.connected_components(ones, directed=False)[1]


def _bridges(x: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Return edges that join all components, shape ``(b, 2)``, by Borůvka's algorithm."""
    bridges = np.empty((0, 2), np.int64)
    points = torch.from_numpy(x)
    joined = component
    while joined.max() > 0:
        sizes = np.bincount(joined)
        # All but the largest look for what is nearest to them; the largest is found by another.
        small = np.delete(np.arange(len(sizes)), sizes.argmax())
        found = [_shortest(points, joined == c) for c in small]
        # Two components that are nearest to each other have found the same bridge.
        new = np.unique(np.sort(found, axis=1), axis=0)
        bridges = np.concatenate([bridges, new])
        joined = _components(joined[new], len(sizes))[joined]
    return bridges


def _shortest(x: torch.Tensor, inside: np.ndarray) -> tuple[int, int]:
    """Return the closest pair of one point inside and one outside."""
    left, right = (torch.from_numpy(np.flatnonzero(mask)) for mask in (inside, ~inside))
    best, pair = math.inf, (-1, -1)
    for part in left.split(max(1, CHUNK // len(right))):
        d = squared_distance(x[part], x[right])
        at = int(d.argmin())
        if float(d.view(-1)[at]) < best:
            best = float(d.view(-1)[at])
            pair = int(part[at // len(right)]), int(right[at % len(right)])
    return pair
