"""Costs of two cells alone: the half squared distance and its likes, and clones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, cells_of
from cellflow.costs.distances import distance, half_squared_distance
from cellflow.timecourse import Snapshot

#: Label of a cell whose clone is not known.
UNKNOWN = ""


@COSTS.register("half_squared")
@dataclass(frozen=True)
class HalfSquared(Cost):
    r"""Half squared distance :math:`\tfrac12 \sum_k w_k (x_k - y_k)^2`, the usual cost.

    The weight w of each column, in `weights`, is finite and not negative; one when omitted. Where
    columns hold places in a tissue, theirs say how strongly cells are coupled in space.
    """

    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            weights = tuple(_checks.number(w, "weights", low=0.0) for w in self.weights)
            object.__setattr__(self, "weights", weights)

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        x, y = cells_of(source, target)
        if self.weights is not None:
            if len(self.weights) != x.shape[1]:
                expected = f"{x.shape[1]}, one for each dimension of the cells"
                raise ValueError(_checks.message("weights", f"{len(self.weights)}", expected))
            root = x.new_tensor(self.weights).sqrt()
            x, y = x * root, y * root
        return half_squared_distance(x, y)


@COSTS.register("euclidean")
@dataclass(frozen=True)
class Euclidean(Cost):
    """Distance ``|x − y|``, by which far pairs weigh less than by its square."""

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        return distance(*cells_of(source, target))


@COSTS.register("cosine")
@dataclass(frozen=True)
class Cosine(Cost):
    """One minus the cosine of the angle between cells, seen from the origin.

    A cell at the origin is at cost one from all others.
    """

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        x, y = (torch.nn.functional.normalize(z) for z in cells_of(source, target))
        return (1.0 - x @ y.T).clamp_(min=0.0)


@COSTS.register("clones")
@dataclass(frozen=True)
class Clones(Cost):
    """Zero within a clone and one elsewhere; to be :class:`Added` to a cost of states.

    Labels of cells are their clones, or :data:`UNKNOWN`, who are at one from all. Raises ValueError
    for cells without labels.
    """

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        numbers = {UNKNOWN: 0}
        if source.labels is None or target.labels is None:
            remedy = "Give Snapshot(..., labels=clones), or couple the whole snapshots."
            raise ValueError(_checks.message("labels", "none", "the clones of all cells", remedy))
        clones = source.labels, target.labels
        codes = ([numbers.setdefault(clone, len(numbers)) for clone in some] for some in clones)
        a, b = (torch.tensor(code, device=source.x.device) for code in codes)
        return (~((a[:, None] == b) & (b != 0))).double()
