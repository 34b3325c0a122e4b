"""Cells of a course as a method sees them: in canonical order, split, on a device."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from cellflow import _moments
from cellflow._random import shuffle, stream_rng
from cellflow._typing import Tensor
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.options import FitOptions

#: Rows that are converted at once.
_BLOCK = 2**16


def digest(*parts: TimeCourse) -> str:
    """Return a hash of all cells, masses, rates and velocities of a course, whole or in `parts`."""
    out = hashlib.sha256()
    for s in (s for part in parts for s in part.snapshots):
        for part in (s.x, s.mass, s.growth, s.velocity):
            for some in () if part is None else part.detach().split(_BLOCK):
                out.update(some.cpu().double().contiguous().numpy())
    return out.hexdigest()


def canonical(course: TimeCourse) -> TimeCourse:
    """Return the course with cells in an order of their own, so that the user's never matters.

    By their first dimension, then the next ones; a shift or a change of unit keeps the order.
    """
    return _gathered(course, [canonical_order(s) for s in course.snapshots])


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
    rest = [snapshot.mass, *([] if snapshot.growth is None else [snapshot.growth])]
    rest += [] if snapshot.velocity is None else [*snapshot.velocity.T]
    return keys + [value.detach()[rows].cpu().double().numpy() for value in rest]


def split(
    course: TimeCourse, fraction: float, seed: int, *, orders: Sequence[Tensor] | None = None
) -> tuple[TimeCourse, TimeCourse | None]:
    """Split each snapshot at random into cells to train on and cells to validate on.

    The cells are first put in these `orders`, if any. Each part has the mass of the whole. Hold
    nothing back if any snapshot has fewer than two cells to spare.
    """
    sizes = [int(fraction * len(s)) for s in course.snapshots]
    if min(sizes) < 2:
        return (course if orders is None else _gathered(course, orders)), None
    kept, held = [], []
    for k, (s, size) in enumerate(zip(course.snapshots, sizes, strict=True)):
        chosen = shuffle(len(s), stream_rng(seed, k, 15)).to(s.x.device)
        if orders is not None:
            chosen = orders[k][chosen]
        held.append(chosen[:size])
        kept.append(chosen[size:])
    return _gathered(course, kept), _gathered(course, held)


def split_in_canonical_order(
    course: TimeCourse, fraction: float, seed: int
) -> tuple[TimeCourse, ...]:
    """Return what :func:`split` makes of :func:`canonical` cells, one part or two.

    Each cell is copied once, so that millions need little more memory than they take.
    """
    orders = [canonical_order(s) for s in course.snapshots]
    kept, held = split(course, fraction, seed, orders=orders)
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
    for s, index in zip(course.snapshots, rows, strict=True):
        part = base[start : start + len(index)]
        torch.index_select(s.x.detach(), 0, index, out=part)
        mass = s.mass[index]
        if len(index) < len(s):
            mass = (mass.double() * (s.total_mass / mass.double().sum())).to(mass)
        labels = None if s.labels is None else [s.labels[i] for i in index.tolist()]
        growth, velocity = (None if v is None else v[index] for v in (s.growth, s.velocity))
        out.append(Snapshot(part, s.time, mass, labels, growth, velocity))
        start += len(index)
    return TimeCourse(tuple(out), course.unit)


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
