"""Comparison: whether two conditions flow differently, by permutation of cells or replicates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from typing import NamedTuple

import torch
from scipy import special, stats

from cellflow import _checks
from cellflow._processes import side_by_side
from cellflow._random import stream_rng
from cellflow._typing import Tensor
from cellflow.fits import Fit
from cellflow.methods import Method
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training import FitOptions

#: Fewest cells of a condition at a time; most that the least p may be: of twice three replicates.
FEWEST, LEVEL = 10, 0.1


@dataclass(frozen=True, eq=False)
class FeatureDifferences:
    """Differences of the mean velocities of `g` genes, or of the data's dimensions, each ``(g,)``.

    Of each condition the mean is that over its own cells, by mass, at each time: at cells of the
    other, where a fit has seen none, its velocity in any feature may be wrong, and a feature in
    which conditions do not differ would seem to. The `effect` is the mean velocity of the second
    condition less that of the first, mean over times, in units of the feature per unit of time, and
    the `difference` its root mean square over times, in which opposite signs do not cancel.

    The `p_value` is the share of the labelings in which that is as large. It holds where conditions
    do not differ at all. A feature that does not differ beside others that do has the p value of
    its own only after training that is long enough: fits that have not yet learned differ in all of
    them. `fdr` is the false discovery rate of the features up to this one (Benjamini and Hochberg):
    of the `k` of `g` features in which no permutation made as large a difference, ``g / k /
    labelings``.
    """

    effect: Tensor
    difference: Tensor
    p_value: Tensor
    fdr: Tensor


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""Difference of the velocities of two conditions, and how often chance makes as large a one.

    Of the two `conditions`, by name, and the `times` of the ``T`` snapshots: `difference` ``(T,)``
    is the root mean square :math:`|v_1 - v_2|` over all cells of each time, by mass, in data units
    per unit of time, and `cells` has it at each cell, a tensor ``(n,)`` for each time. The
    `p_value` ``(T,)`` is the share of all `labelings`, the observed one and permuted ones, in which
    the difference is as large, and `overall` the same for the sum of squares over all times. The
    `features` say where in the data's dimensions, or in which genes, conditions differ.
    """

    conditions: tuple[str, str]
    times: tuple[float, ...]
    difference: Tensor
    p_value: Tensor
    overall: float
    cells: tuple[Tensor, ...]
    features: FeatureDifferences
    labelings: int


def compare(
    course: TimeCourse,
    method: Method,
    options: FitOptions | None = None,
    *,
    replicates: Sequence[Sequence[str]] | None = None,
    preprocessing: Preprocessing | None = None,
    readout: Preprocessing | None = None,
    n_permutations: int = 99,
    workers: int | None = None,
) -> Comparison:
    """Compare the flows of two conditions, the labels of the cells of `course`.

    The method is fitted to the cells of each condition; their velocities are compared at all
    cells, at the time of each. Then conditions are permuted among the cells of each time point, and
    everything is repeated: where conditions make no difference, all labelings are equally likely,
    so p values hold whatever the method does. Cells of one animal are not independent: with
    `replicates`, conditions are permuted among whole ones that were observed at the same times.

    Parameters
    ----------
    course
        Labelled cells of exactly two conditions, at least ten of each at every time.
    method
        What is fitted.
    options
        As in :meth:`Method.fit`; their seed decides the permutations, too, and is that of each fit.
    replicates
        For each time the replicate of each cell, such as an animal or a dish, each of one
        condition. Where there are no more ways to label them than `n_permutations`, each is taken
        once; one and its mirror image, of which the differences are the same, are one.
    preprocessing, readout
        Of the cells before each fit, as in :meth:`Method.fit`; and from genes to the data's
        dimensions, where these are components.
    n_permutations, workers
        Permutations, of which the smallest possible p value is one over one more; and processes
        side by side: the answer does not depend on their number.

    Raises
    ------
    ValueError
        If there are not two conditions, one has too few cells at a time, or there are so few
        replicates that no p value is at most 0.1.
    """
    names = _conditions(course)
    count = _checks.count(n_permutations, "n_permutations")
    options = options or FitOptions(steps=method.default_steps)
    units = _cells(course, names) if replicates is None else _whole(course, names, replicates)
    labelings = units.labelings(count, options.seed)
    _check_cells(course, names, units, labelings)
    quiet = replace(options, progress=False)
    make = partial(method.fit_with, options=quiet, preprocessing=preprocessing)
    work, shown = partial(_differences, course, units.of_cell, make, readout), options.progress
    found = side_by_side(work, labelings, workers=workers, progress=shown, unit="labeling")
    by_time = torch.stack([f.by_time for f in found])
    total = by_time.sum(1)
    return Comparison(
        conditions=names,
        times=tuple(course.times),
        difference=by_time[0].sqrt(),
        p_value=_as_large(by_time),
        overall=float(_as_large(total)),
        cells=found[0].cells,
        features=_features(torch.stack([f.shift for f in found])),
        labelings=len(labelings),
    )


def _as_large(values: Tensor) -> Tensor:
    """Share of the rows of `values`, of which the first is the observed one, that are as large."""
    return (values >= values[0]).double().mean(0)


def _features(shift: Tensor) -> FeatureDifferences:
    """Return what the differences `shift` ``(labelings, T, g)`` say of each feature."""
    squares = shift.square().mean(1)
    p = _as_large(squares)
    fdr = torch.from_numpy(stats.false_discovery_control(p.numpy()))
    return FeatureDifferences(shift[0].mean(0), squares[0].sqrt(), p, fdr)


def _conditions(course: TimeCourse) -> tuple[str, str]:
    """Return the names of the two conditions."""
    names = sorted({label for s in course.snapshots for label in s.labels or ()})
    if len(names) != 2 or any(s.labels is None for s in course.snapshots):
        got = f"{len(names)} conditions" + (f" ({', '.join(names)})" if names else "")
        raise ValueError(_checks.message("course", got, "cells of two, named by their labels"))
    return names[0], names[1]


class _Units(NamedTuple):
    """What is labelled as a whole: cells, or replicates.

    Numbers of the units of the cells of each time; whether each unit is of the first condition; and
    units that may change places, those observed at the same times.
    """

    of_cell: tuple[Tensor, ...]
    first: Tensor
    strata: list[Tensor]

    @property
    def distinct(self) -> float:
        """Number of labelings, of which one and its mirror image, if it has one, count as one."""
        sizes = [(len(s), int(self.first[s].sum())) for s in self.strata]
        number = math.prod(float(special.comb(n, k)) for n, k in sizes)  # may be infinite
        return number / 2 if self._mirrored else number

    @property
    def _mirrored(self) -> bool:
        return all(2 * int(self.first[s].sum()) == len(s) for s in self.strata)

    def labelings(self, count: int, seed: int) -> list[Tensor]:
        """Return the observed labeling and `count` random ones, or all if there are no more."""
        if self.distinct <= count + 1:
            return [self.first, *self._others()]
        out = [self.first]
        for k in range(1, count + 1):
            rng, drawn = stream_rng(seed, k, 90), self.first.clone()
            for stratum in self.strata:
                order = torch.randperm(len(stratum), generator=rng)
                drawn[stratum] = self.first[stratum[order]]
            out.append(drawn)
        return out

    def _others(self) -> Iterator[Tensor]:
        """Every labeling but the observed one, or its mirror image."""
        ways = [combinations(s.tolist(), int(self.first[s].sum())) for s in self.strata]
        for chosen in product(*ways):
            drawn = torch.zeros_like(self.first)
            drawn[[unit for part in chosen for unit in part]] = True
            alike = self._mirrored and drawn[0] != self.first[0]
            if not alike and not torch.equal(drawn, self.first):
                yield drawn


def _cells(course: TimeCourse, names: Sequence[str]) -> _Units:
    """Return the cells as units, which change places within each time."""
    of_cell = torch.arange(sum(map(len, course.snapshots))).split([*map(len, course.snapshots)])
    first = [label == names[0] for s in course.snapshots for label in s.labels or ()]
    return _Units(of_cell, torch.tensor(first), list(of_cell))


def _whole(course: TimeCourse, names: Sequence[str], replicates: Sequence[Sequence[str]]) -> _Units:
    """Return the replicates as units, which change places where they are of the same times."""
    if [*map(len, replicates)] != [*map(len, course.snapshots)]:
        got = f"{[*map(len, replicates)]} names"
        expected = f"one of each cell, {[*map(len, course.snapshots)]}"
        raise ValueError(_checks.message("replicates", got, expected))
    seen: dict[str, set[tuple[int, str]]] = {}
    for k, (s, of) in enumerate(zip(course.snapshots, replicates, strict=True)):
        for name, label in zip(of, s.labels or (), strict=True):
            seen.setdefault(name, set()).add((k, label))
    known = sorted(seen)
    number = {name: k for k, name in enumerate(known)}
    condition: list[str] = []
    alike: dict[frozenset[int], list[int]] = {}
    for name in known:
        labels = sorted({label for _, label in seen[name]})
        if len(labels) > 1:
            got = f"{name!r} in {' and '.join(map(repr, labels))}"
            remedy = "Name those of each condition differently."
            raise ValueError(_checks.message("replicates", got, "each in one condition", remedy))
        condition += labels
        alike.setdefault(frozenset(k for k, _ in seen[name]), []).append(number[name])
    of_cell = tuple(torch.tensor([number[name] for name in of]) for of in replicates)
    first = torch.tensor([label == names[0] for label in condition])
    units = _Units(of_cell, first, [torch.tensor(s) for s in alike.values()])
    if 1 / units.distinct > LEVEL:
        n = int(first.sum()), len(first) - int(first.sum())
        got = f"{n[0]} of {names[0]!r} and {n[1]} of {names[1]!r}"
        got += f", with which the least possible p is {1 / units.distinct:.3g}"
        expected = f"enough for {LEVEL}, such as three of each condition at all times"
        raise ValueError(_checks.message("replicates", got, expected))
    return units


def _check_cells(
    course: TimeCourse, names: Sequence[str], units: _Units, labelings: Sequence[Tensor]
) -> None:
    """Refuse too few cells of a condition, as observed or, of replicates, as permuted."""
    for k, first in enumerate(labelings):
        for s, of in zip(course.snapshots, units.of_cell, strict=True):
            n = int(first[of].sum())
            for name, size in zip(names, (n, len(s) - n), strict=True):
                if size < FEWEST:
                    got = f"{size} cells of {name!r} at time {s.time:g}"
                    got += " after replicates were permuted" if k else ""
                    raise ValueError(_checks.message("course", got, f"at least {FEWEST}"))


class _Found(NamedTuple):
    """At each time the squared difference ``(T,)``, that of means ``(T, g)``, and of each cell."""

    by_time: Tensor
    shift: Tensor
    cells: tuple[Tensor, ...]


def _differences(
    course: TimeCourse,
    of_cell: Sequence[Tensor],
    make: Callable[[TimeCourse], Fit],
    readout: Preprocessing | None,
    first: Tensor,
) -> _Found:
    """Compare velocities where the units `first` are of the first condition, the others not."""
    halves: tuple[list, list] = ([], [])
    for s, unit in zip(course.snapshots, of_cell, strict=True):
        for half, of in zip(halves, (first[unit], ~first[unit]), strict=True):
            half.append(replace(s.subset(of.nonzero()[:, 0].to(s.x.device)), labels=None))
    fits = [make(TimeCourse(tuple(half), course.unit)) for half in halves]
    squares, shifts, cells = [], [], []
    for s, unit in zip(course.snapshots, of_cell, strict=True):
        one, two = (fit.velocity(s.time, s.x).cpu() for fit in fits)
        cells.append((two - one).norm(dim=1))
        weights, of = s.weights.cpu(), first[unit].double()
        squares.append(weights @ cells[-1].double().square())
        shifts.append(_mean(two, weights * (1 - of)) - _mean(one, weights * of))
    shift = torch.stack(shifts)
    shift = shift if readout is None else readout.invert_vectors(shift)
    return _Found(torch.stack(squares), shift, tuple(cells))


def _mean(v: Tensor, weights: Tensor) -> Tensor:
    return weights @ v.double() / weights.sum()
