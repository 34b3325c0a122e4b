"""Pairs of snapshots of one size, solved together on an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellflow.couplings.coupling import check_pair
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.batched import ENTRIES

Pairs = Sequence[tuple[Snapshot, Snapshot]]


def in_batches(solver: str, sources: Sequence[Snapshot]) -> bool:
    """Whether problems are solved together: "auto" gains by it on an accelerator only."""
    on_device = any(isinstance(s, Snapshot) and s.x.device.type != "cpu" for s in sources)
    return solver == "batched" or (solver == "auto" and on_device)


def by_size(couple: Callable[[Pairs], Sequence[Plan]], pairs: Pairs) -> list[Plan]:
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
