"""Comparison: whether two conditions flow differently, by permutation of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from cellflow import _checks
from cellflow._processes import side_by_side
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.methods import Method
from cellflow.timecourse import TimeCourse

#: Fewest cells of a condition at a time.
FEWEST = 10


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""Difference of the velocities of two conditions, and how often chance makes as large a one.

    Parameters
    ----------
    conditions
        Names of the two.
    times
        Times of the ``T`` snapshots.
    difference
        Root mean square difference :math:`|v_1 - v_2|` over all cells of each time, data units per
        unit of time, ``(T,)``.
    p_value
        For each time, ``(T,)``: the share of the labelings, the observed one and permuted ones, in
        which the difference is as large.
    overall
        The same for the sum of squares over all times.
    cells
        :math:`|v_1 - v_2|` at each cell, a tensor ``(n,)`` for each time.
    """

    conditions: tuple[str, str]
    times: tuple[float, ...]
    difference: Tensor
    p_value: Tensor
    overall: float
    cells: tuple[Tensor, ...]


def compare(
    course: TimeCourse,
    method: Method,
    *,
    steps: int | None = None,
    n_permutations: int = 99,
    generator: Rng = 0,
    workers: int | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare the flows of two conditions, the labels of the cells of `course`.

    The method is fitted to the cells of each condition; their velocities are compared at all
    cells, at the time of each. Then conditions are permuted among the cells of each time point, and
    everything is repeated: where conditions make no difference, all labelings are equally likely,
    so p values hold whatever the method does. They hold for cells that are independent: replicates
    of a condition are not told apart.

    Parameters
    ----------
    course
        Labelled cells of exactly two conditions, at least ten of each at every time.
    method
        What is fitted.
    steps
        Training steps of a fit; the method's own when omitted.
    n_permutations
        Permutations; the smallest possible p value is one over one more.
    generator
        Seed or generator of permutations and fits.
    workers
        Processes side by side; the answer does not depend on their number.
    progress
        Whether to show progress.

    Raises
    ------
    ValueError
        If there are not two conditions, or one has too few cells at a time.
    """
    names = _conditions(course)
    count = _checks.count(n_permutations, "n_permutations")
    seed = draw_seed(_checks.as_generator(generator))
    work = partial(_differences, course, names, method, steps=steps, seed=seed)
    labelings = range(count + 1)
    found = side_by_side(work, labelings, workers=workers, progress=progress, unit="labeling")
    squares = torch.tensor(
        [[float(d.double().square().mean()) for d in each] for each in found], dtype=torch.float64
    )
    total = squares.sum(1)
    return Comparison(
        conditions=names,
        times=tuple(course.times),
        difference=squares[0].sqrt(),
        p_value=(squares >= squares[0]).double().mean(0),
        overall=float((total >= total[0]).double().mean()),
        cells=tuple(found[0]),
    )


def _conditions(course: TimeCourse) -> tuple[str, str]:
    """Return the names of the two conditions, after a look at their numbers of cells."""
    names = sorted({label for s in course.snapshots for label in s.labels or ()})
    if len(names) != 2 or any(s.labels is None for s in course.snapshots):
        got = f"{len(names)} conditions" + (f" ({', '.join(names)})" if names else "")
        raise ValueError(_checks.message("course", got, "cells of two, named by their labels"))
    for s in course.snapshots:
        for name in names:
            n = (s.labels or []).count(name)
            if n < FEWEST:
                got = f"{n} cells of {name!r} at time {s.time:g}"
                raise ValueError(_checks.message("course", got, f"at least {FEWEST}"))
    return names[0], names[1]


def _differences(
    course: TimeCourse,
    names: Sequence[str],
    method: Method,
    k: int,
    *,
    steps: int | None,
    seed: int,
) -> list[Tensor]:
    """Differences of velocities at all cells under labeling `k`; the observed one is the first."""
    rng = torch.Generator().manual_seed(stream_seed(seed, k, 90))
    halves: tuple[list, list] = ([], [])
    for s in course.snapshots:
        first = torch.tensor([label == names[0] for label in s.labels or ()])
        if k:
            first = first[torch.randperm(len(first), generator=rng)]
        for half, of in zip(halves, (first, ~first), strict=True):
            half.append(replace(s.subset(of.nonzero()[:, 0].to(s.x.device)), labels=None))
    fits = [
        method.fit(TimeCourse(tuple(h), course.unit), steps=steps, generator=seed, progress=False)
        for h in halves
    ]
    return [
        (fits[0].velocity(s.time, s.x) - fits[1].velocity(s.time, s.x)).norm(dim=1).cpu()
        for s in course.snapshots
    ]
