"""Many pairs of snapshots at once, on an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cellflow import _checks
from cellflow.couplings.coupling import Coupling
from cellflow.plans import Plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.batched import ENTRIES


def matched(
    sources: Sequence[Snapshot], targets: Sequence[Snapshot]
) -> list[tuple[Snapshot, Snapshot]]:
    """Return pairs of snapshots, after checking that there are as many of both.

    Raises
    ------
    ValueError
        If there are not.
    """
    if len(sources) != len(targets):
        got = f"{len(targets)} snapshots"
        raise ValueError(_checks.message("targets", got, f"{len(sources)}, as many as sources"))
    return list(zip(sources, targets, strict=True))


def together(
    coupling: Coupling,
    pairs: Sequence[tuple[Snapshot, Snapshot]],
    solver: Callable[[Sequence[tuple[Snapshot, Snapshot]]], list[Plan | None]],
) -> list[Plan]:
    """Couple pairs by `solver` where they are on an accelerator, the rest one by one.

    Parameters
    ----------
    coupling
        Couples one pair.
    pairs
        Pairs of snapshots.
    solver
        Couples pairs of one size at once, as many as memory should hold; None where it cannot.
    """
    alike: dict[tuple, list[int]] = {}
    for k, (source, target) in enumerate(pairs):
        if isinstance(source, Snapshot) and isinstance(target, Snapshot) and on_device(source):
            alike.setdefault((len(source), len(target), *source.x.shape[1:]), []).append(k)
    plans: list[Plan | None] = [None] * len(pairs)
    for (n, m, _), members in alike.items():
        size = max(1, ENTRIES // (n * m))
        for start in range(0, len(members), size):
            some = members[start : start + size]
            for k, plan in zip(some, solver([pairs[k] for k in some]), strict=True):
                plans[k] = plan
    return [
        coupling(*pair) if plan is None else plan for pair, plan in zip(pairs, plans, strict=True)
    ]


def on_device(snapshot: Snapshot) -> bool:
    """Whether the cells are on an accelerator, where problems are solved together."""
    return snapshot.x.device.type != "cpu"
