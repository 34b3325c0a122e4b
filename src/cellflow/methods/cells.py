"""The cells of a course as a method sees them: ordered, split, summarised."""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import replace

import numpy as np
import torch

from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.timecourse import Snapshot, TimeCourse


def digest(course: TimeCourse) -> str:
    """Return a hash of all cells and masses of `course`."""
    out = hashlib.sha256()
    for s in course.snapshots:
        for part in (s.x, s.mass, *([] if s.growth is None else [s.growth])):
            out.update(part.detach().cpu().double().numpy().tobytes())
    return out.hexdigest()


def canonical(course: TimeCourse) -> TimeCourse:
    """Return the course with cells in an order of their own, so that the user's never matters."""

    def order(s: Snapshot) -> Snapshot:
        x = s.x.detach().cpu().double().numpy()
        # Cells of expression tie in many dimensions: a hash of all of them decides.
        rest = [zlib.crc32(row.tobytes()) for row in x] if x.shape[1] > 8 else []
        masses_and_rates = [s.mass, *([] if s.growth is None else [s.growth])]
        last = [value.cpu().double().numpy() for value in masses_and_rates]
        keys = [*x.T[:8], *([np.array(rest)] if rest else []), *last]
        index = torch.from_numpy(np.lexsort(keys[::-1]).copy()).to(s.x.device)
        return s.subset(index)

    return TimeCourse(tuple(order(s) for s in course.snapshots), course.unit)


def split(course: TimeCourse, fraction: float, seed: int) -> tuple[TimeCourse, TimeCourse | None]:
    """Split each snapshot at random into cells to train on and cells to validate on.

    Either part has the mass of the whole. Nothing is held back from a course with a snapshot too
    small to spare two cells.
    """
    sizes = [int(fraction * len(s)) for s in course.snapshots]
    if min(sizes) < 2:
        return course, None
    kept, held = [], []
    for k, (s, size) in enumerate(zip(course.snapshots, sizes, strict=True)):
        generator = torch.Generator().manual_seed(stream_seed(seed, k, 15))
        order = torch.randperm(len(s), generator=generator).to(s.x.device)
        held.append(_part(s, order[:size]))
        kept.append(_part(s, order[size:]))
    return TimeCourse(tuple(kept), course.unit), TimeCourse(tuple(held), course.unit)


def _part(snapshot: Snapshot, index: Tensor) -> Snapshot:
    part = snapshot.subset(index)
    whole = snapshot.mass.double().sum() / part.mass.double().sum()
    return replace(part, mass=(part.mass.double() * whole).to(part.mass))


def natural_sigma(course: TimeCourse) -> float:
    """Diffusion at which noise alone would spread a point to a snapshot within one interval.

    Parameters
    ----------
    course
        Cells in model coordinates.

    Returns
    -------
    Root of the mean variance of a snapshot, per dimension and mean interval: data units per
    square root of time.
    """
    within = [float(s.x.double().var(0, correction=0).mean()) for s in course.snapshots]
    span = (course.times[-1] - course.times[0]) / (len(course) - 1)
    return math.sqrt(sum(within) / len(within) / span) or 1.0
