"""Transitions between groups over any two times: what flows move from each to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import sparse

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.answers.fates import BLOCK, futures, is_noisy
from cellflow.answers.labels import NEIGHBOURS, indicators, labels_at, weights_near
from cellflow.fits import Ensemble, Fit, Interpolation
from cellflow.timecourse import Snapshot, TimeCourse


@dataclass(frozen=True, eq=False)
class Moves:
    """Mass ``(k, l)`` that goes from each of the groups `before` to each of those `after`.

    The `mass` is of total one but for growth, in float64.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    mass: Tensor


def transitions(
    fit: Fit | Ensemble,
    course: TimeCourse,
    times: Sequence[float],
    *,
    n_futures: int = 10,
    neighbours: int = NEIGHBOURS,
    generator: Rng = 0,
) -> Moves:
    """Masses that go from each label at the first of two `times` to each at the second.

    Cells at an observed first time are those of `course`, labelled, in data coordinates; at another
    those that the `fit`, or an ensemble, interpolates. Of each, `n_futures` by each member are
    simulated and pooled, with noise where the method learned it, by a seed or `generator`, and
    weigh by the mass that they have grown to. Whatever is not observed has the labels of its
    `neighbours`, the observed cells around (:func:`~cellflow.answers.labels.labels_at`).
    """
    start, end = (_checks.number(t, "times") for t in times)
    if end <= start:
        raise ValueError(_checks.message("end", f"{end:g}", f"a time after {start:g}"))
    label = partial(labels_at, course, preprocessing=fit.preprocessing, neighbours=neighbours)
    rng = _checks.as_generator(generator)
    observed = [s for s in course.snapshots if s.time == start and s.labels is not None]
    if observed:
        (cells,) = observed
        before = sorted(set(cells.labels or ()))
        marks = indicators(cells.labels or (), before)
    else:
        found = fit.interpolate(start, generator=rng)
        cells = found.pooled if isinstance(found, Interpolation) else found
        before, marks = label(cells)
    n_futures = _checks.count(n_futures, "n_futures")
    cells = replace(cells, mass=cells.weights.to(cells.mass) / n_futures)
    rows = torch.arange(len(cells)).repeat(n_futures)
    after: list[str] = []
    mass = torch.zeros(())
    for part in rows.split(BLOCK):
        there = futures(fit, cells.subset(part), end, generator=rng)
        after, shares = label(there)
        own = marks[part].repeat(len(there) // len(part), 1)
        mass = mass + own.T @ (there.mass.cpu().double()[:, None] * shares)
    return Moves(tuple(before), tuple(after), mass)


def chances(
    fit: Fit | Ensemble,
    start: Snapshot,
    ends: Snapshot,
    *,
    n_futures: int = 10,
    neighbours: int = NEIGHBOURS,
    generator: Rng = 0,
) -> sparse.csr_matrix:
    """Chance that the future of each cell of `start` is at each cell of `ends`, at a later time.

    A sparse matrix ``(n, m)`` with rows of sum one. Of each cell, `n_futures` are simulated by the
    `fit`, or by each member of an ensemble, where the method learned noise, by a seed or
    `generator`. They weigh by the mass that they have grown to, and are shared out among the
    `neighbours` where they come to. Summed over the cells of a label, chances are the fates of
    :func:`~cellflow.answers.fates_by_flow`.
    """
    rng, out = _checks.as_generator(generator), sparse.csr_matrix((len(start), len(ends)))
    cells, prep = Snapshot(start.x, start.time), fit.preprocessing
    known = ends.x if prep is None else prep.apply(ends.x)
    copies = _checks.count(n_futures, "n_futures") if is_noisy(fit) else 1
    for part in torch.arange(len(cells)).repeat(copies).split(BLOCK):
        there = futures(fit, cells.subset(part), ends.time, generator=rng)
        places = there.x if prep is None else prep.apply(there.x)
        cols, weights = weights_near(places, known, neighbours=neighbours)
        rows = np.resize(part.numpy(), len(there)).repeat(cols.shape[1])
        mass = (weights * there.mass.cpu().double()[:, None]).flatten().numpy()
        out = out + sparse.csr_matrix((mass, (rows, cols.flatten())), shape=out.shape)
    return sparse.csr_matrix(out.multiply(1 / out.sum(1)))
