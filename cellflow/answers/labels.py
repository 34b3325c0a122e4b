"""Labels of a place: those of the observed cells around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

#: Observed cells by which a place is labelled.
NEIGHBOURS = 15


def indicators(labels: Sequence[str | None], names: Sequence[str]) -> Tensor:
    """Return 1 where a cell has a label, else 0: one row a cell, one column for each of `names`.

    A cell of another label has zeros, float64.
    """
    column: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    where = torch.tensor([column.get(label, len(column)) for label in labels], dtype=torch.long)
    return torch.nn.functional.one_hot(where, len(column) + 1)[:, :-1].double()


def shares_near(x: Tensor, cells: Tensor, marks: Tensor, *, neighbours: int = NEIGHBOURS) -> Tensor:
    """Mean of the `marks` of the `cells` nearest to each place `x`, shape ``(n, k)``.

    Of places ``(n, d)`` among cells ``(m, d)`` with marks ``(m, k)``. A neighbour at distance r
    counts for :math:`e^{-r^2/2h^2}`, with h the median distance to the `neighbours`, so that a
    group of half as many is not outvoted from afar. On the CPU, float64, and differentiable in `x`
    as long as the neighbours stay the same.
    """
    rows, weights = weights_near(x, cells, neighbours=neighbours)
    return torch.einsum("nj,njk->nk", weights, marks.detach().cpu().double()[rows])


def weights_near(x: Tensor, cells: Tensor, *, neighbours: int) -> tuple[Tensor, Tensor]:
    """Rows of the `cells` nearest to each place `x`, and what each counts for: ``(n, neighbours)``.

    Weights sum to one; all is as in :func:`shares_near`.
    """
    size = min(_checks.count(neighbours, "neighbours"), len(cells))
    known, places = (z.cpu().double() for z in (cells.detach(), x))
    known, places = (z - known.mean(0) for z in (known, places))  # distances are found by products
    if not all(bool(z.square().sum().isfinite()) for z in (known, places)):
        got, remedy = "cells so far apart that distances overflow", "Drop them, or rescale."
        raise ValueError(_checks.message("cells", got, "finite distances", remedy))
    # Trees are slower in more than a few dimensions.
    search = NearestNeighbors(n_neighbors=size, algorithm="brute" if x.shape[1] > 4 else "auto")
    found = search.fit(known.numpy()).kneighbors(places.detach().numpy(), return_distance=False)
    rows = torch.from_numpy(found)
    squares = (places[:, None] - known[rows]).square().sum(2)  # no kink at zero
    widths = squares[:, size // 2, None].clamp_min(float(np.finfo(np.float32).tiny) ** 2)
    weights = torch.exp(-0.5 * squares / widths)
    return rows, weights / weights.sum(1, keepdim=True)


def labels_at(
    course: TimeCourse,
    cells: Snapshot,
    *,
    preprocessing: Preprocessing | None = None,
    neighbours: int = NEIGHBOURS,
) -> tuple[list[str], Tensor]:
    """Names and probabilities ``(n, k)`` of labels of predicted `cells`, by observed ones near by.

    So many `neighbours` are sought among the labelled cells of the snapshots of `course` next to
    the time of `cells`, in the coordinates of `preprocessing`. Rows sum to one.
    """
    before = [s for s in course.snapshots if s.time <= cells.time][-1:]
    after = [s for s in course.snapshots if s.time >= cells.time][:1]  # the same, if observed
    near = [s for s in dict.fromkeys([*before, *after]) if s.labels is not None]
    labels = [label for s in near for label in s.labels or ()]
    if not labels:
        got = f"no labels next to time {cells.time:g}"
        raise ValueError(_checks.message("course", got, "labelled cells"))
    names = sorted(set(labels))
    x = torch.cat([s.x for s in near])
    places, x = (z if preprocessing is None else preprocessing.apply(z) for z in (cells.x, x))
    return names, shares_near(places, x, indicators(labels, names), neighbours=neighbours)
