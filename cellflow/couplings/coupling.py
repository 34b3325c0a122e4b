"""What a coupling is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

from cellflow import _checks
from cellflow._registry import Registry
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot

#: Any function of two snapshots serves where a coupling is asked for: see :func:`as_coupling`.
CouplingLike: TypeAlias = "Coupling | Callable[[Snapshot, Snapshot], Plan]"


class Coupling(ABC):
    """From two snapshots to a plan of who is paired with whom.

    A member is a frozen dataclass in a file of its own, which registers itself by the name that
    the AnnData door and the command line use:
    ``@COUPLINGS.register("exact")``. The class attributes say what others must know of it.

    Attributes
    ----------
    needs_whole
        Whether it is to be given whole snapshots, not blocks of cells.
    knows_rows
        Whether it knows cells by their rows, which must then stay as they are.
    on_cpu
        Whether it works on the CPU wherever the cells are.
    grows
        Whether the masses of its plans change on the way.
    leaves_out
        Whether its plans leave some cells without a partner on purpose.
    digest
        Hash of what the plans depend on beside the settings, for checkpoints; None for nothing.
    """

    needs_whole: ClassVar[bool] = False
    knows_rows: ClassVar[bool] = False
    on_cpu: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    leaves_out: ClassVar[bool] = False

    @property
    def digest(self) -> str | None:
        """Hash of what the plans depend on beside the settings; None for nothing."""
        return None

    @abstractmethod
    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        """Couple the snapshots `source` and `target`, of n and m cells.

        Raises
        ------
        TypeError, ValueError
            If the snapshots do not fit each other.
        """

    def many(self, sources: Sequence[Snapshot], targets: Sequence[Snapshot]) -> list[Plan]:
        """Couple the first of `sources` with the first of `targets`, and so on.

        Raises
        ------
        ValueError
            If there are not as many of both.
        """
        if len(sources) != len(targets):
            got, expected = f"{len(targets)} snapshots", f"{len(sources)}, as many as sources"
            raise ValueError(_checks.message("targets", got, expected))
        return [self(*pair) for pair in zip(sources, targets, strict=True)]

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Self:
        """Return an instance for the law tests, fit to couple `source` and `target`."""
        return cls()


@dataclass(frozen=True)
class FunctionCoupling(Coupling):
    """A function of two snapshots, as a coupling.

    Parameters
    ----------
    function
        From two snapshots to a plan.
    """

    function: Callable[[Snapshot, Snapshot], Plan]

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        """Couple `source` and `target`."""
        return self.function(source, target)


def as_coupling(coupling: CouplingLike) -> Coupling:
    """Return a coupling: `coupling` itself, or a function of two snapshots made into one."""
    return coupling if isinstance(coupling, Coupling) else FunctionCoupling(coupling)


#: Couplings by name.
COUPLINGS: Registry[type[Coupling]] = Registry("cellflow.couplings")
