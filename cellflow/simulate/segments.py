"""Where a span of times is cut, so that no step crosses a time at which the fields jump."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from itertools import pairwise

import torch

from cellflow import _checks
from cellflow._typing import Tensor


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of time in which the fields are smooth.

    Parameters
    ----------
    start, span
        First time and signed length, in the user's unit.
    share
        Fraction of the whole span.
    rows
        Rows of the outputs, both ends included.
    u
        Their positions from 0 to 1, in float64.
    bounds
        Earliest and latest time at which the fields may be asked, or None for no bounds.
    interval
        Time between the two knots around it, or None without knots.
    """

    start: float
    span: float
    share: float
    rows: slice
    u: Tensor
    bounds: tuple[float, float] | None
    interval: float | None = None


def cut_at_breaks(
    grid: Tensor,
    breaks: tuple[float, ...],
    *,
    knots: tuple[float, ...] = (),
    device: torch.device,
) -> tuple[list[Segment], Tensor]:
    """Cut the span of `grid` at those of `breaks` and `knots` that are inside it.

    The fields of a segment are asked strictly inside it, a billionth of its length from its
    ends: what a field says at the very time of a jump belongs to one side only. Without breaks
    there is one segment, and no bounds.

    Parameters
    ----------
    grid
        Output times, monotone, ``(T,)`` in float64.
    breaks
        Times at which the fields may jump, increasing.
    knots
        Times between which the pace differs, increasing: at least two, or none.
    device
        Of the state: its times may be of a lower precision.

    Returns
    -------
    segments
        In the order of `grid`. The rows of their outputs are the times of `grid` and the cuts.
    asked
        Those rows that are times of `grid`, ``(T,)``.
    """
    span = float(grid[-1] - grid[0])
    eps = torch.finfo(_checks.time_dtype(device)).eps
    # Times that differ by no more than this were meant to be the same (0.1 + 0.2 and 0.3).
    slack = max(1e-12 * abs(span), 4 * eps * float(grid.abs().max()))
    times = grid.tolist()
    cuts = {times[0], times[-1]}
    for time in sorted({*breaks, *knots}):
        if min(cuts) < time < max(cuts):
            nearest = float(grid[(grid - time).abs().argmin()])
            cuts.add(nearest if abs(nearest - time) <= slack else time)
    backward = span < 0
    rows = sorted({*times, *cuts}, reverse=backward)
    place = {time: row for row, time in enumerate(rows)}
    every = torch.tensor(rows, dtype=torch.float64)
    segments = []
    for here, there in pairwise(sorted(cuts, reverse=backward)):
        length = there - here
        bounds = None
        if breaks:
            inset = min(max(1e-9 * abs(length), 2 * slack), abs(length) / 4)
            bounds = min(here, there) + inset, max(here, there) - inset
        part = slice(place[here], place[there] + 1)
        u = (every[part] - here) / length
        interval = _around((here + there) / 2, knots)
        segments.append(Segment(here, length, length / span, part, u, bounds, interval))
    return segments, torch.tensor([place[time] for time in times])


def _around(time: float, knots: tuple[float, ...]) -> float | None:
    """Return the time between the two of `knots` around `time`, or nearest to it."""
    if not knots:
        return None
    i = min(max(bisect(knots, time), 1), len(knots) - 1)
    return knots[i] - knots[i - 1]
