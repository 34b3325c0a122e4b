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
    """Stretch of time in which the fields are smooth.

    It begins at `start`, has the signed length `span` (in the user's unit) and is a `share` of the
    whole span. It writes the `rows` of the outputs, both ends included, at the positions `u` from 0
    to 1 (in float64). Fields may be asked between the two `bounds`, None for no bounds. The time
    between the two knots around it is `interval`, None without knots.
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
    """Cut the span of `grid` ``(T,)`` at those of `breaks` and `knots` that are inside it.

    Returns the segments in the order of `grid`, and the rows of their outputs (the times of `grid`
    and the cuts) that are times of `grid`, ``(T,)``. Times on `device` may be of a lower
    precision. The fields of a segment are asked strictly inside it, a billionth of its length from
    its ends: what a field says at the very time of a jump belongs to one side only. Without breaks
    there is one segment, and no bounds.
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
