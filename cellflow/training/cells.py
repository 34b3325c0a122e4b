"""Cells of a course as a method sees them: in canonical order, split, on a device."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cellflow import _checks, _moments
from cellflow._random import shuffle, stream_rng
from cellflow._typing import Tensor
from cellflow.snapshot import Snapshot, totals
from cellflow.strata import links
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions

#: Rows that are converted at once.
_BLOCK = 2**16


def digest(*parts: TimeCourse) -> str:
    """Return a hash of all cells, masses, rates and velocities of a course, whole or in `parts`."""
    out = hashlib.sha256()
    for s in (s for part in parts for s in part.snapshots):
        known = (s.x, s.mass, s.growth, s.condition, s.velocity)
        for part in (v for v in known if v is not None):
            for some in part.detach().split(_BLOCK):
                out.update(some.cpu().double().contiguous().numpy())
    return out.hexdigest()


def refuse_conditions(course: TimeCourse, method: str) -> None:
    """Refuse a `course` with conditions, which `method` does not learn."""
    if course.conditions is not None:
        got, expected = f"{len(course.conditions)} for {method!r}", "none: it does not learn them"
        remedy = "Take a FlowMatching such as OTCFM(), or fit course.under(condition)."
        raise ValueError(_checks.message("conditions", got, expected, remedy))


def canonical(course: TimeCourse) -> TimeCourse:
    """Return the course with cells in an order of their own, so that the user's never matters.

    By their first dimension, then the next ones; a shift or a change of unit keeps the order. The
    cells of a stratum are one behind the other.
    """
    return _gathered(course, _orders(course))


def _orders(course: TimeCourse) -> list[Tensor]:
    """Return the canonical order of the rows of each snapshot, one stratum after the other."""
    orders = [canonical_order(s) for s in course.snapshots]
    if course.conditions is None:
        return orders
    pairs = zip(orders, course.strata, strict=True)
    return [order[number[order].argsort(stable=True)] for order, number in pairs]


def canonical_order(snapshot: Snapshot) -> Tensor:
    """Return the rows of `snapshot` in an order that is that of its cells, shape ``(n,)``.

    O(n log n) operations; what is held is a few numbers for each cell.
    """
    x = snapshot.x.detach()
    first = x[:, 0].cpu().double().numpy()
    order = np.argsort(first, kind="stable")
    same = np.diff(first[order]) == 0
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    if tied.any():
        rows = order[tied]
        order[tied] = rows[np.lexsort(_keys(snapshot, torch.from_numpy(rows))[::-1])]
    return torch.from_numpy(order).to(x.device)


def _keys(snapshot: Snapshot, rows: Tensor) -> list[np.ndarray]:
    """Return what the cells `rows` are ordered by, first things first, each of shape ``(n,)``."""
    rows = rows.to(snapshot.x.device)
    keys = [*snapshot.x.detach()[rows, :8].cpu().double().numpy().T]
    if snapshot.x.shape[1] > 8:
        # Cells of expression tie in many dimensions: a hash of all of them decides.
        parts = (snapshot.x.detach()[part] for part in rows.split(_BLOCK))
        hashes = (zlib.crc32(row) for x in parts for row in x.cpu().double().numpy())
        keys.append(np.fromiter(hashes, dtype=np.int64, count=len(rows)))
    rest = [v for v in (snapshot.mass, snapshot.growth, snapshot.condition) if v is not None]
    rest += [] if snapshot.velocity is None else [*snapshot.velocity.T]
    return keys + [value.detach()[rows].cpu().double().numpy() for value in rest]


def split(
    course: TimeCourse, fraction: float, seed: int, *, orders: Sequence[Tensor] | None = None
) -> tuple[TimeCourse, TimeCourse | None]:
    """Split each snapshot at random into cells to train on and cells to validate on.

    The cells are first put in these `orders`, if any. Each part has the mass of the whole. Each
    stratum is split by itself. Hold nothing back of one that has fewer than two cells to spare at
    any of its times, and nothing at all if no cells of a snapshot are held then.
    """
    rows = orders or [torch.arange(len(s), device=s.x.device) for s in course.snapshots]
    parts = [_by_stratum(n, index) for n, index in zip(course.strata, rows, strict=True)]
    few = {j for part in parts for j, some in part.items() if int(fraction * len(some)) < 2}
    kept, held = [], []
    for k, part in enumerate(parts):
        rng = stream_rng(seed, k, 15)
        chosen = {j: some[shuffle(len(some), rng).to(some.device)] for j, some in part.items()}
        sizes = {j: 0 if j in few else int(fraction * len(some)) for j, some in part.items()}
        held.append(torch.cat([some[: sizes[j]] for j, some in chosen.items()]))
        kept.append(torch.cat([some[sizes[j] :] for j, some in chosen.items()]))
    if min(map(len, held)) > 0:
        out = _gathered(course, held)
        if course.conditions is None or links(out):
            return _gathered(course, kept), out
    return (course if orders is None else _gathered(course, orders)), None


def _by_stratum(number: Tensor, rows: Tensor) -> dict[int, Tensor]:
    """Return the `rows` of each stratum, in their order, by its `number`, of each cell."""
    number = number[rows]
    return {j: rows[number == j] for j in number.unique().tolist()}


def split_in_canonical_order(
    course: TimeCourse, fraction: float, seed: int
) -> tuple[TimeCourse, ...]:
    """Return what :func:`split` makes of :func:`canonical` cells, one part or two.

    Each cell is copied once, so that millions need little more memory than they take.
    """
    kept, held = split(course, fraction, seed, orders=_orders(course))
    return (kept,) if held is None else (kept, held)


def to_device(course: TimeCourse, options: FitOptions) -> TimeCourse:
    """Return `course` on the device, and in the floating type, that it is trained in."""
    place = course.snapshots[0].x.device if options.device is None else torch.device(options.device)
    dtype = options.dtype
    if dtype is None and place.type == "mps":
        dtype = torch.float32  # the only one that this device computes in
    return course.to(device=place, dtype=dtype)


def _gathered(course: TimeCourse, rows: Sequence[Tensor]) -> TimeCourse:
    """Return these `rows` of each snapshot, one behind the other in memory, of the same masses."""
    x = course.snapshots[0].x.detach()
    base = x.new_empty(sum(map(len, rows)), x.shape[1])
    out, start = [], 0
    for s, index, number in zip(course.snapshots, rows, course.strata, strict=True):
        part = base[start : start + len(index)]
        torch.index_select(s.x.detach(), 0, index, out=part)
        mass = s.mass[index]
        if len(index) < len(s):
            n = number[index]
            mass = (mass.double() * (totals(s.mass, number)[n] / totals(mass, n)[n])).to(mass)
        out.append(Snapshot(part, s.time, mass, *s.rest(index)))
        start += len(index)
    return replace(course, snapshots=tuple(out))


def natural_sigma(course: TimeCourse, *more: TimeCourse) -> float:
    """Diffusion at which noise alone would spread a point to a snapshot within one interval.

    It is the root of the mean variance of a snapshot, per dimension and mean interval, in data
    units per square root of time; `more` are other parts of `course`, in the same coordinates.
    """
    parts = (course, *more)
    each = [[part.snapshots[k].x.detach() for part in parts] for k in range(len(course))]
    within = [float(_moments.variance(x, _moments.mean(x)).mean()) for x in each]
    span = (course.times[-1] - course.times[0]) / (len(course) - 1)
    return math.sqrt(sum(within) / len(within) / span) or 1.0
