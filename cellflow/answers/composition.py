"""Composition: shares of labels among the cells of a time, observed, predicted and interpolated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.answers.labels import indicators, labels_at
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

#: Bootstrap draws of cells by which an interval is found.
DRAWS = 200


@dataclass(frozen=True, eq=False)
class Shares:
    """Share of each of `k` labels at one time, and a 95 % interval over the cells sampled.

    The interval says how much other cells of the same population would differ, not how wrong a
    model is.
    """

    time: float
    mean: Tensor
    low: Tensor
    high: Tensor


def shares_of(cells: Snapshot, marks: Tensor, *, seed: int = 0) -> Shares:
    """Shares among `cells` of labels with indicators or probabilities `marks` ``(n, k)``, by mass.

    The interval is that of bootstrap draws of as many cells (percentiles).
    """
    n, weights = len(cells), cells.weights.detach().cpu().double()
    rng = torch.Generator().manual_seed(seed)
    draws = (torch.randint(n, (n,), generator=rng) for _ in range(DRAWS))
    drawn = torch.stack([rows.bincount(minlength=n) for rows in draws]).double() * weights
    shares = (drawn / drawn.sum(1, keepdim=True)) @ marks.double()
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return Shares(cells.time, weights @ marks.double() / weights.sum(), low, high)


def arithmetic(before: Tensor, after: Tensor, s: float) -> Tensor:
    """Shares a fraction `s` of the way from those `before` to those `after`: their mean."""
    return torch.lerp(before, after, s)


def geometric(before: Tensor, after: Tensor, s: float) -> Tensor:
    """Shares if each label grows at a constant rate of its own: the geometric mean, rescaled.

    A label that one end lacks is not between them either.
    """
    mixed = before ** (1 - s) * after**s
    total = mixed.sum()
    return mixed / total if total > 0 else arithmetic(before, after, s)


#: Interpolations of shares that know nothing of cells: the yardsticks of a predicted composition.
YARDSTICKS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "arithmetic": arithmetic,
    "geometric": geometric,
}


def observed(course: TimeCourse, names: Sequence[str]) -> list[Shares]:
    """Shares of the labels `names` in each snapshot of `course`."""
    out = []
    for k, s in enumerate(course.snapshots):
        if s.labels is None:
            got = f"no labels at time {s.time:g}"
            raise ValueError(_checks.message("course", got, "labelled cells"))
        out.append(shares_of(s, indicators(s.labels, names), seed=stream_seed(0, k, 70)))
    return out


def predicted(
    course: TimeCourse,
    cells: Snapshot,
    names: Sequence[str],
    *,
    preprocessing: Preprocessing | None = None,
) -> Shares:
    """Shares of the labels `names` among predicted `cells`, labelled by the place they reached.

    See :func:`~cellflow.answers.labels.labels_at`.
    """
    found, probabilities = labels_at(course, cells, preprocessing=preprocessing)
    return shares_of(cells, probabilities @ indicators(found, names))


def interpolated(shares: Sequence[Shares], time: float, how: str) -> Tensor:
    """Shares at `time` from those observed next to it, by a name of :data:`YARDSTICKS`.

    At an observed time, those of the times before and after it, as if it were not known.
    """
    before = [s for s in shares if s.time < time]
    after = [s for s in shares if s.time > time]
    if not before or not after:
        raise ValueError(_checks.message("time", f"{time:g}", "a time between two observed ones"))
    first, last = before[-1], after[0]
    s = (time - first.time) / (last.time - first.time)
    return YARDSTICKS[_checks.choice(how, YARDSTICKS, "how")](first.mean, last.mean, s)
