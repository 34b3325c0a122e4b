"""A cost with another one added."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, CostLike, as_cost
from cellflow.costs.of_cells import HalfSquared
from cellflow.timecourse import Snapshot, TimeCourse


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
    def delta(self) -> float | None:
        return as_cost(self.cost).delta

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

    def reach(self, source: Snapshot, target: Snapshot) -> float | None:
        return as_cost(self.cost).reach(source, target)

    def fitted_to(self, course: TimeCourse) -> Self:
        term, cost = (part.fitted_to(course) for part in self._parts)
        return replace(self, term=term, cost=cost)
