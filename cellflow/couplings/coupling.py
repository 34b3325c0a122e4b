"""The coupling: from two snapshots to a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

from cellflow import _checks
from cellflow._registry import Registry
from cellflow._typing import Tensor
from cellflow.costs import Cost, CostLike, HalfSquared, as_cost
from cellflow.plans import DENSE_LIMIT, Plan
from cellflow.plans.reading import as_plan
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.transport.entropic.batched import ENTRIES

#: Any function of two snapshots serves where a coupling is asked for: see :func:`as_coupling`.
CouplingLike: TypeAlias = "Coupling | Callable[[Snapshot, Snapshot], object]"
#: Sources with their targets.
Pairs: TypeAlias = Sequence[tuple[Snapshot, Snapshot]]
#: The cost of all couplings unless said otherwise.
HALF_SQUARED = HalfSquared()


class Coupling(ABC):
    """A rule that pairs the cells of two snapshots.

    A member is a frozen dataclass in a file of its own, which registers itself under the name
    that the AnnData door and the command line use: ``@COUPLINGS.register("exact")``. The
    attributes tell samplers and methods how it is to be used.
    """

    on_cpu: ClassVar[bool] = False  #: It works on the CPU wherever the cells are.
    thread_safe: ClassVar[bool] = True  #: Several threads may call it at once.
    grows: ClassVar[bool] = False  #: Its plans have growth factors.
    leaves_out: ClassVar[bool] = False  #: Its plans leave some mass unmatched on purpose.
    sigma: float | None = None  #: Diffusion of its Brownian reference, if it has one.
    solver: str = ""  #: How problems are solved, where that can be chosen.
    cost: CostLike | None = None  #: By what ground cost, where that can be chosen.

    @property
    def ground(self) -> Cost:
        """Its ground cost."""
        return HALF_SQUARED if self.cost is None else as_cost(self.cost)

    @property
    def knows_rows(self) -> bool:
        """Whether cells are known by their rows: their order is kept."""
        return self.ground.knows_rows

    @property
    def needs_whole(self) -> bool:
        """Whether it is given whole snapshots, never blocks of cells."""
        return self.knows_rows

    @property
    def digest(self) -> str | None:
        """Hash of what plans depend on beside the settings, for checkpoints; None for nothing."""
        return self.ground.digest

    @abstractmethod
    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        """Couple `source`, of n cells, and the later `target`, of m, by a plan ``(n, m)``.

        The plan is on the device of the cells.
        """

    def many(self, sources: Sequence[Snapshot], targets: Sequence[Snapshot]) -> list[Plan]:
        """Couple the first of `sources` with the first of `targets`, and so on.

        Where the solver knows batches, on an accelerator or if it is ``"batched"``, pairs of as
        many cells are solved together, each until it has converged; on the CPU, where nothing is
        gained by that, one after the other. The plans are those of single calls, up to the
        tolerance.
        """
        if len(sources) != len(targets):
            got, expected = f"{len(targets)} snapshots", f"{len(sources)}, as many as sources"
            raise ValueError(_checks.message("targets", got, expected))
        pairs = list(zip(sources, targets, strict=True))
        if _in_batches(self.solver, sources):
            return _by_size(self._together, pairs)
        return [self(*pair) for pair in pairs]

    def _together(self, pairs: Pairs) -> Sequence[Plan]:
        """Couple pairs of one size, at once where the solver knows batches."""
        return [self(*pair) for pair in pairs]

    def fitted_to(self, course: TimeCourse) -> Self:
        """Return this coupling with whatever it measures once on `course`, before it couples."""
        fitted = self.ground.fitted_to(course)
        return self if fitted is self.ground else self.by_cost(fitted)

    def by_cost(self, cost: CostLike) -> Self:
        """Return this coupling by another ground `cost`, or raise TypeError if it has its own."""
        if self.cost is None:
            got, expected = type(self).__name__, "one that takes a `cost`, such as Exact"
            raise TypeError(_checks.message("coupling", got, expected))
        return replace(self, cost=cost)  # type: ignore[type-var] # a dataclass

    @classmethod
    def for_diffusion(cls, sigma: Callable[[], float]) -> Self:
        """Return the instance that a name stands for, of cells whose diffusion `sigma` tells."""
        return cls()

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Self:
        """Return an instance for the law tests, fit to couple `source` and `target`."""
        return cls()


#: Couplings by name.
COUPLINGS: Registry[type[Coupling]] = Registry("cellflow.couplings")


@dataclass(frozen=True)
class FunctionCoupling(Coupling):
    """A function from two snapshots to a plan, as a coupling that one thread calls at a time.

    What may stand for a plan: see :func:`cellflow.plans.reading.as_plan`.
    """

    thread_safe: ClassVar[bool] = False

    function: Callable[[Snapshot, Snapshot], object]

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        return as_plan(self.function(source, target), source, target)


def as_coupling(coupling: CouplingLike) -> Coupling:
    """Return `coupling` itself, or a function of two snapshots made into a coupling.

    Only a subclass of :class:`Coupling` can declare attributes such as ``needs_whole``.
    """
    if isinstance(coupling, Coupling):
        return coupling
    if isinstance(coupling, type) or not callable(coupling):
        got = f"the class {coupling.__name__}" if isinstance(coupling, type) else repr(coupling)
        expected = "a Coupling such as Exact(), or a function of two snapshots"
        raise TypeError(_checks.message("coupling", got, expected))
    told = [name for name in ("needs_whole", "knows_rows", "many") if hasattr(coupling, name)]
    if told:
        got = f"{type(coupling).__name__}, which has `{told[0]}` but is no Coupling"
        raise TypeError(_checks.message("coupling", got, "a subclass of Coupling, or a function"))
    return FunctionCoupling(coupling)


def check_pair(source: Snapshot, target: Snapshot) -> None:
    """Check that two snapshots have cells of as many dimensions on one device."""
    for name, value in (("source", source), ("target", target)):
        if not isinstance(value, Snapshot):
            got = type(value).__name__
            raise TypeError(_checks.message(name, got, "a Snapshot", "Use Snapshot(x, time)."))
    x, y = source.x, target.x
    if x.shape[1] != y.shape[1]:
        got, expected = f"{y.shape[1]} dimensions", f"{x.shape[1]} as in the source snapshot"
        raise ValueError(_checks.message("target", got, expected))
    if x.device != y.device:
        got, expected = f"device {y.device}", f"{x.device} as the source"
        raise ValueError(_checks.message("target", got, expected, "Move it with .to."))


def centred(source: Snapshot, target: Snapshot) -> tuple[Tensor, Tensor]:
    """Return the cells of both in float64 about their common centre, after checking the pair."""
    check_pair(source, target)
    x, y = source.x.detach().double(), target.x.detach().double()
    centre = (x.mean(0) + y.mean(0)) / 2
    return x - centre, y - centre


def costs_of(cost: Cost, source: Snapshot, target: Snapshot) -> Tensor:
    """Return the costs of all pairs ``(n, m)``, after checking the pair."""
    check_pair(source, target)
    n, m = len(source), len(target)
    if n * m > DENSE_LIMIT and cost != HALF_SQUARED:
        got, expected = f"{type(cost).__name__} of {n} × {m} cells", f"up to {DENSE_LIMIT:,} pairs"
        raise ValueError(_checks.message("cost", got, expected, "Couple fewer cells at once."))
    return cost(source, target)


def _in_batches(solver: str, sources: Sequence[Snapshot]) -> bool:
    """Whether problems are solved together: "auto" gains by it on an accelerator only."""
    on_device = any(isinstance(s, Snapshot) and s.x.device.type != "cpu" for s in sources)
    return solver == "batched" or (solver == "auto" and on_device)


def _by_size(couple: Callable[[Pairs], Sequence[Plan]], pairs: Pairs) -> list[Plan]:
    """Couple pairs of one size by one call of `couple`, as many as memory should hold."""
    alike: dict[tuple[int, int], list[int]] = {}
    for k, (source, target) in enumerate(pairs):
        check_pair(source, target)
        alike.setdefault((len(source), len(target)), []).append(k)
    plans: dict[int, Plan] = {}
    for (n, m), members in alike.items():
        size = max(1, ENTRIES // (n * m))
        for start in range(0, len(members), size):
            some = members[start : start + size]
            plans.update(zip(some, couple([pairs[k] for k in some]), strict=True))
    return [plans[k] for k in range(len(pairs))]
