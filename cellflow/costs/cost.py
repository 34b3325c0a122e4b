"""The ground cost: what it takes to turn one cell into another."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

from cellflow import _checks
from cellflow._registry import Registry
from cellflow._typing import ArrayLike, Tensor
from cellflow.timecourse import Snapshot, TimeCourse

#: What serves where a cost is asked for: see :func:`as_cost`.
CostLike: TypeAlias = "str | Cost | Callable[[Tensor, Tensor], Tensor] | ArrayLike"


class Cost(ABC):
    """A cost of pairs of cells of two snapshots.

    A member is a frozen dataclass that registers itself: ``@COSTS.register("cosine")``.
    """

    @property
    def knows_rows(self) -> bool:
        """Whether cells are known by their rows: it is of whole snapshots."""
        return False

    @property
    def digest(self) -> str | None:
        """Hash of what costs depend on beside the settings; None for nothing."""
        return None

    @abstractmethod
    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        """Return the costs of all pairs, ``(n, m)``, float64, finite and not negative."""

    def bare(self, source: Snapshot, target: Snapshot) -> Tensor:
        """Return the costs of `source` and `target` before any were added: the unit of scales."""
        return self(source, target)

    @property
    def delta(self) -> float | None:
        """Length of Wasserstein-Fisher-Rao transport; None where the cost is not of that kind."""
        return None

    def reach(self, source: Snapshot, target: Snapshot) -> float | None:
        """Distance r whose r²/2 marginals of `source` and `target` are to be relaxed by.

        None where the cost does not say.
        """
        return None

    def fitted_to(self, course: TimeCourse) -> Self:
        """Return this cost with whatever it measures once on all cells of a `course`."""
        return self


#: Costs by name.
COSTS: Registry[type[Cost]] = Registry("cellflow.costs")


@dataclass(frozen=True, eq=False)
class OwnCost(Cost):
    """Costs of the user's own, by a function of cells or a matrix: see :func:`as_cost`."""

    values: Callable[[Tensor, Tensor], Tensor] | Tensor

    @property
    def knows_rows(self) -> bool:
        return isinstance(self.values, Tensor)

    @property
    def digest(self) -> str | None:
        if not isinstance(self.values, Tensor):
            return None
        return hashlib.sha256(self.values.double().cpu().numpy().tobytes()).hexdigest()

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        own, n, m = self.values, len(source), len(target)
        found = own if isinstance(own, Tensor) else own(*cells_of(source, target))
        out = _checks.as_numbers(found, "cost").detach().to(source.x.device).double().clone()
        if out.shape != (n, m):
            remedy = "A matrix is of whole snapshots, in the order of their cells."
            got = f"shape {tuple(out.shape)}"
            raise ValueError(_checks.message("cost", got, f"{n, m}", remedy))
        if not bool((out.isfinite() & (out >= 0)).all()):
            got = f"values from {out.min():g} to {out.max():g}"
            raise ValueError(_checks.message("cost", got, "finite costs of at least 0"))
        return out


def as_cost(cost: CostLike) -> Cost:
    """Return what `cost` stands for.

    That is a :class:`Cost`; a name in :data:`COSTS`; a function from the cells ``(n, d)`` and
    ``(m, d)`` of two snapshots to a matrix ``(n, m)``; or such a matrix, for two whole snapshots.
    Fits hold functions and matrices only as long as they are in memory.
    """
    if isinstance(cost, Cost):
        return cost
    if isinstance(cost, str):
        return COSTS[_checks.choice(cost, COSTS, "cost")]()
    own = callable(cost) and not isinstance(cost, type)
    return OwnCost(cost if own else _checks.as_numbers(cost, "cost"))  # type: ignore[arg-type]


def cells_of(source: Snapshot, target: Snapshot) -> tuple[Tensor, Tensor]:
    """Return the cells of both in float64."""
    return source.x.detach().double(), target.x.detach().double()
