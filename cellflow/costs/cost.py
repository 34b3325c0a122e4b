"""The ground cost: what it takes to turn one cell into another."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
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

    def fitted_to(self, course: TimeCourse) -> Self:
        """Return this cost with whatever it measures once on all cells of a `course`."""
        return self


#: Costs by name.
COSTS: Registry[type[Cost]] = Registry("cellflow.costs")


@dataclass(frozen=True)
class FunctionCost(Cost):
    """A function from cells ``(n, d)`` and ``(m, d)``, float64, to costs ``(n, m)``."""

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        return _checked(self.function(*cells_of(source, target)), source, target)


@dataclass(frozen=True, eq=False)
class GivenCost(Cost):
    """A matrix ``(n, m)`` of the costs between two whole snapshots, in the order of their rows."""

    matrix: Tensor = field(repr=False)

    @property
    def knows_rows(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.matrix.double().cpu().numpy().tobytes()).hexdigest()

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        return _checked(self.matrix, source, target)


def as_cost(cost: CostLike) -> Cost:
    """Return what `cost` stands for.

    That is a :class:`Cost`; a name in :data:`COSTS`; a function from the cells ``(n, d)`` and
    ``(m, d)`` of two snapshots to a matrix ``(n, m)``; or such a matrix, for two whole snapshots.
    Fits hold functions and matrices only as long as they are in memory.
    """
    if isinstance(cost, Cost):
        return cost
    if isinstance(cost, str):
        return COSTS[_checks.choice(cost, [k for k, v in COSTS.items() if _complete(v)], "cost")]()
    if callable(cost) and not isinstance(cost, type):
        return FunctionCost(cost)
    return GivenCost(_checks.as_numbers(cost, "cost"))  # type: ignore[arg-type] # or it is refused


def cells_of(source: Snapshot, target: Snapshot) -> tuple[Tensor, Tensor]:
    """Return the cells of both in float64."""
    return source.x.detach().double(), target.x.detach().double()


def _complete(kind: type[Cost]) -> bool:
    """Whether a cost needs no further settings."""
    return all(hasattr(kind, f.name) for f in fields(kind))  # type: ignore[arg-type]


def _checked(cost: object, source: Snapshot, target: Snapshot) -> Tensor:
    """Return costs of others as ours are."""
    out = _checks.as_numbers(cost, "cost").detach().to(source.x.device).double()  # type: ignore[arg-type]
    n, m = len(source), len(target)
    if out.shape != (n, m):
        remedy = "A matrix is of whole snapshots, in the order of their cells."
        raise ValueError(_checks.message("cost", f"shape {tuple(out.shape)}", f"{n, m}", remedy))
    if not bool((out.isfinite() & (out >= 0)).all()):
        got = f"values from {out.min():g} to {out.max():g}"
        raise ValueError(_checks.message("cost", got, "finite costs of at least 0"))
    return out
