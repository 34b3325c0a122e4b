"""Costs of two cells alone: the half squared distance and its likes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, cells_of
from cellflow.costs.distances import distance, half_squared_distance
from cellflow.timecourse import Snapshot


@COSTS.register("half_squared")
@dataclass(frozen=True)
class HalfSquared(Cost):
    """Half squared distance ``½|x − y|²``: the cost of all couplings unless said otherwise."""

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        return half_squared_distance(*cells_of(source, target))


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


@COSTS.register("weighted")
@dataclass(frozen=True)
class Weighted(Cost):
    r"""Half squared distance :math:`\tfrac12 \sum_k w_k (x_k - y_k)^2` with weighted features.

    Cells whose last columns are places in a tissue are coupled in space so, as strongly as these
    are weighted.

    Parameters
    ----------
    weights
        Weight of each column, finite and not negative.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weights = tuple(_checks.number(w, "weights", low=0.0) for w in self.weights)
        object.__setattr__(self, "weights", weights)

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        if len(self.weights) != source.x.shape[1]:
            expected = f"{source.x.shape[1]}, one for each dimension of the cells"
            raise ValueError(_checks.message("weights", f"{len(self.weights)}", expected))
        x, y = cells_of(source, target)
        root = x.new_tensor(self.weights).sqrt()
        return half_squared_distance(x * root, y * root)
