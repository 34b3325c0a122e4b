"""Costs of two cells alone: the half squared distance and its likes, clones, and sums."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, CostLike, as_cost, cells_of
from cellflow.costs.distances import distance, half_squared_distance
from cellflow.timecourse import Snapshot, TimeCourse

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


@COSTS.register("added")
@dataclass(frozen=True)
class Added(Cost):
    r"""A cost of states with a term of another kind added: clones, places, or anything known.

    .. math:: c_{ij} + w\, \tilde c\, \frac{t_{ij}}{\max t}

    with the costs c, their median :math:`\tilde c` over all pairs, and the term t. Regularisation
    and relaxation that are relative to the mean cost stay so to that of c alone, and where the term
    is the same for all pairs nothing is added.

    What is added, `term`, is as in :func:`as_cost`: ``"clones"``; a matrix of distances in a
    tissue, or a :class:`HalfSquared` cost that weighs only the columns that hold places. Its
    dearest pair costs `weight` median costs of a pair more. It is added to `cost`.
    """

    term: CostLike = "clones"
    weight: float = 1.0
    cost: CostLike = field(default=HalfSquared(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "term", as_cost(self.term))
        object.__setattr__(self, "cost", as_cost(self.cost))
        _checks.number(self.weight, "weight", low=0.0)

    @property
    def _parts(self) -> tuple[Cost, Cost]:
        return as_cost(self.term), as_cost(self.cost)

    @property
    def knows_rows(self) -> bool:
        return any(part.knows_rows for part in self._parts)

    @property
    def digest(self) -> str | None:
        return "".join(part.digest or "" for part in self._parts) or None

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        cost, term = self.bare(source, target), as_cost(self.term)(source, target)
        if bool((term == term[0, 0]).all()):
            return cost
        # Of an even number of pairs, the lower of the two in the middle.
        return cost + (self.weight * float(cost.median()) / float(term.max())) * term

    def bare(self, source: Snapshot, target: Snapshot) -> Tensor:
        return as_cost(self.cost).bare(source, target)

    def fitted_to(self, course: TimeCourse) -> Self:
        term, cost = (part.fitted_to(course) for part in self._parts)
        return replace(self, term=term, cost=cost)
