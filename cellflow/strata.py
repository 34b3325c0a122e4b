"""Strata of a course with conditions, and which of their cells are coupled with which."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.conditions import Conditions
from cellflow.timecourse import Snapshot, TimeCourse


class Link(NamedTuple):
    """Cells of two time points that are coupled with each other.

    The n cells `source` and m cells `target` have the rows `rows` ``(n,)`` and `cols` ``(m,)`` in
    ``course.x``. The number of their `stratum` is 0 without conditions; `codes` ``(m,)`` are those
    that pairs get, by their target cells, None without conditions.
    """

    source: Snapshot
    target: Snapshot
    rows: Tensor
    cols: Tensor
    stratum: int = 0
    codes: Tensor | None = None


def links(course: TimeCourse) -> list[Link]:
    """Return which cells of a `course` are coupled: within strata, of each time with the next.

    A stratum has the cells of its control at the time points before its own first. One that it
    lacks later is passed over. A stratum of one time point has no link. A cell is there once,
    whoever borrows it.
    """
    starts = [sum(map(len, course.snapshots[:k])) for k in range(len(course))]
    places = [
        torch.arange(start, start + len(s), device=s.x.device)
        for start, s in zip(starts, course.snapshots, strict=True)
    ]
    if course.conditions is None:
        ends = pairwise(zip(course.snapshots, places, strict=True))
        return [Link(source, target, rows, cols) for (source, rows), (target, cols) in ends]
    groups: list[dict[int, tuple[Snapshot, Tensor]]] = []
    for k, (number, place) in enumerate(zip(course.strata, places, strict=True)):
        of_time = {}
        for j in number.unique().tolist():
            rows = (number == j).nonzero()[:, 0]
            of_time[j] = course.part(k, rows), place[rows]
        groups.append(of_time)
    found = []
    for j, lender, as_own, own, lent in _strata(course, course.conditions):
        chain = [groups[k][lender] for k in lent] + [groups[k][j] for k in own]
        for (source, rows), (target, cols) in pairwise(chain):
            codes = as_own.to(cols.device)[target.condition]
            found.append(Link(source, target, rows, cols, j, codes))
    return found


def told(course: TimeCourse) -> tuple[str, bool]:
    """Return what is done about times that strata of `course` lack, and whether one is left out."""
    if course.conditions is None:
        return "", False
    said: dict[str, list[str]] = {}
    out = False
    for j, lender, _, own, lent in _strata(course, course.conditions):
        lacks = [k for k in range(len(course)) if k not in own + lent]
        parts = [
            f"{text} {', '.join(f'{course.times[k]:g}' for k in at)}"
            for text, at in (("the control's cells at", lent), ("no cells at", lacks))
            if at
        ]
        starts = j == lender and own[0] == 0  # the control, from which others may start
        if len(own) + len(lent) < 2 and not starts:
            parts, out = ["cells at one time point only, left out"], True
        name = course.conditions.texts[course.conditions.strata()[j][0]]
        if parts:
            said.setdefault("; ".join(parts), []).append(name)
    return "\n".join(f"conditions {', '.join(names)}: {text}" for text, names in said.items()), out


def _strata(
    course: TimeCourse, conditions: Conditions
) -> Iterator[tuple[int, int, Tensor, list[int], list[int]]]:
    """Yield of each stratum with cells its number, its control's (or -1), codes, and time points.

    Codes are those that cells get in it: what it borrows counts as under the condition of which it
    is the control, or its first. Time points have cells of its own, or the control's before those.
    """
    strata, present = conditions.strata(), [set(number.tolist()) for number in course.strata]
    for j, codes in enumerate(strata):
        own = [k for k, some in enumerate(present) if j in some]
        if not own:  # none is left of it
            continue
        as_own = torch.full((len(conditions),), codes[0])
        for code in reversed(codes):
            base = conditions.control_of(conditions.values[code])
            if base is not None:
                as_own[base] = code
        as_own[list(codes)] = torch.tensor(codes)
        base = conditions.control_of(conditions.values[codes[0]])
        lender = next((k for k, some in enumerate(strata) if base in some), -1)
        yield j, lender, as_own, own, [k for k in range(own[0]) if lender in present[k]]
