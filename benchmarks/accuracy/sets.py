"""The time courses of the held-out benchmark: stored cells in the coordinates that are scored."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from cellflow import _checks
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse

#: Dimension whose components are whitened, as in the OT-CFM paper; others are left as they are.
WHITENED = 5
#: Cells of a time point at most, where there are far more than exact distances can take.
MOST = {"larry_spring2d": 5000}


def chosen(folder: Path, names: list[str]) -> list[Path]:
    """Return the files of `folder` whose names begin with one of `names`; all if there are none."""
    files = sorted(folder.glob("*.npz"))
    for name in names:
        if not any(path.stem.startswith(name) for path in files):
            known = ", ".join(path.stem for path in files)
            raise ValueError(
                _checks.message("sets", repr(name), f"the beginning of one of {known}")
            )
    return [p for p in files if not names or p.stem.startswith(tuple(names))]


@lru_cache(maxsize=4)
def read(path: Path, dims: int, most_cells: int | None = None) -> TimeCourse | None:
    """Return a set in its first `dims` components, in physical time; None where it has fewer.

    Components and scales are those of all cells, as in the papers. Five are whitened; a set of
    fewer dimensions keeps its own units. `most_cells` of a time
    point are drawn, always the same.
    """
    with np.load(path) as stored:
        x, t = stored["X"].astype(np.float32), stored["t"]
    if dims != WHITENED and min(x.shape) < dims:
        return None
    if "semrau" in path.stem:
        x = np.log1p(x)  # counts
    rng, times = np.random.default_rng(0), np.unique(t)
    most = min(most_cells or len(x), MOST.get(path.stem, len(x)))
    rows = [np.sort(rng.permutation(np.flatnonzero(t == time))[:most]) for time in times]
    course = TimeCourse.from_arrays([torch.from_numpy(x[r]) for r in rows], times.tolist())
    if dims == WHITENED and course.dim < dims:
        return course
    n = min(dims, course.dim)
    if "_pca" in path.stem:  # they are components already
        course, n = course.map(lambda cells: cells[:, :n]), None
    prep = fit_preprocessing(course.x, n_components=n, whiten=dims == WHITENED)
    return course.map(prep.apply)


def is_even(course: TimeCourse) -> bool:
    """Whether time points are equally far apart, so that index time is physical time."""
    spans = np.diff(course.times)
    return bool(np.ptp(spans) < 1e-6 * spans.mean())
