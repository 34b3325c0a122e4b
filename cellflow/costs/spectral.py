"""Cost along slow directions of the data: the leading eigenvectors of a graph of its cells."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, cells_of
from cellflow.costs.distances import half_squared_distance, squared_distance
from cellflow.timecourse import Snapshot, TimeCourse

#: Nodes up to which all eigenvectors are computed at once.
DENSE = 500


@COSTS.register("spectral")
@dataclass(frozen=True)
class Spectral(Cost):
    r"""Half squared distance in the leading eigenvectors of a graph of all cells.

    For many noisy components (50 or more), whose distances are nearly the same for all pairs. Cells
    are joined to their nearest neighbours; of the graph, of degrees d and weights one, the
    eigenvectors :math:`\varphi_k` of the normalised Laplacian with the least eigenvalues
    :math:`\lambda_k > 0` give a cell the coordinates
    :math:`\lambda_k^{-1/2} \varphi_k(i) / \sqrt{d_i}`. With all eigenvectors squared distances are
    the graph's effective resistances, proportional to times of commuting (:cite:`lovasz1993`,
    theorem 3.1 and corollary 3.2); the leading ones leave out what is said of a cell's own
    neighbourhood. Coordinates are scaled so that the cells vary as much as in the data: costs are
    in squared data units.

    The graph is that of all cells of a course where it is fitted (:meth:`fitted_to`; methods do
    so), and others are taken for the cell next to them; else it is that of both snapshots. A block
    of n cells of a course of N takes ``O(n N d)`` time.

    There are `n_vectors` eigenvectors, and each cell has `n_neighbors` in the graph, whose parts
    are joined by their shortest bridges.
    """

    _fitted: ClassVar[tuple[Tensor, Tensor] | None] = None  # cells of a course, and coordinates

    n_vectors: int = field(default=30, kw_only=True)
    n_neighbors: int = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        _checks.count(self.n_vectors, "n_vectors")
        _checks.count(self.n_neighbors, "n_neighbors")

    def fitted_to(self, course: TimeCourse) -> Self:
        x = course.x.detach().double()
        out = copy(self)
        object.__setattr__(out, "_fitted", (x, self._coordinates(x)))
        return out

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        x, y = cells_of(source, target)
        if self._fitted is None:
            places = self._coordinates(torch.cat([x, y]))
            return half_squared_distance(places[: len(x)], places[len(x) :])
        cells, places = (known.to(x.device) for known in self._fitted)
        near = [
            torch.cat([squared_distance(p, cells).argmin(1) for p in z.split(256)]) for z in (x, y)
        ]
        return half_squared_distance(places[near[0]], places[near[1]])

    def _coordinates(self, x: Tensor) -> Tensor:
        """Return coordinates ``(n, k)`` of cells ``(n, d)``."""
        from scipy.sparse import coo_array, diags_array
        from scipy.sparse.linalg import eigsh

        from cellflow.costs.neighbours import neighbour_graph

        n = len(x)
        i, j = neighbour_graph(x.cpu().numpy(), self.n_neighbors).edges.T
        ends = np.concatenate([i, j]), np.concatenate([j, i])
        graph = coo_array((np.ones(len(ends[0])), ends), shape=(n, n)).tocsr()
        root = diags_array(1.0 / np.sqrt(graph.sum(1)))
        walk, k = root @ graph @ root, min(self.n_vectors + 1, n)
        if n <= DENSE or k == n:
            values, vectors = np.linalg.eigh(walk.toarray())
        else:
            values, vectors = eigsh(walk, k, which="LA", v0=np.linspace(-1.0, 1.0, n))
        order = np.argsort(-values)[1:k]
        scaled = root @ (vectors[:, order] / np.sqrt(1.0 - values[order]))
        places = torch.from_numpy(scaled).to(x)
        ratio = x.var(0).sum() / places.var(0).sum()
        return places * ratio.sqrt()
