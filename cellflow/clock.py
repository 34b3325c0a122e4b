"""A clock: how far cells have come at a time, since they do not progress evenly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from cellflow import _checks
from cellflow._random import stream_rng
from cellflow._typing import ArrayLike, Tensor
from cellflow.couplings.exact import Exact
from cellflow.timecourse import Snapshot, TimeCourse

#: How a method may count time, and the weight of the distance that cells travel in it: as the user
#: does, by distance, or by the geometric mean of both.
CLOCKS = {"physical": 0.0, "distance": 1.0, "tempered": 0.5}
#: Cells of a snapshot, at most, by which distances are measured; and the share of a mean squared
#: one that is left, at least, when its noise is taken off.
CELLS, SIGNAL = 2000, 0.1
#: Share of its even progress that an interval has, and of the slowest one's mean rate that any has.
LEAST_STEP, LEAST_RATE = 0.01, 0.1
#: Halvings that lead from an interval to a time in it, to the last bit.
HALVINGS = 64


@dataclass(frozen=True)
class Clock:
    """A smooth, strictly increasing map from the user's time to the progress of cells.

    A line of a tenth of the slowest interval's mean rate, and on top of it a monotone cubic through
    the knots (PCHIP, :cite:`fritsch1984`): so the clock never stands still, and one with even knots
    is straight. Beyond the knots it goes on with the mean rate of the interval at that end. The
    `times` of the knots are in the user's unit, at least two; they, and the `progress` at each,
    increase strictly.

    Examples
    --------
    >>> clock = Clock((0.0, 1.0, 4.0), (0.0, 2.0, 4.0))
    >>> clock([0.0, 1.0, 4.0, 7.0]).tolist()
    [0.0, 2.0, 4.0, 6.0]
    >>> round(clock.inverse(3.0).item(), 2)
    2.02
    """

    times: tuple[float, ...]
    progress: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("times", "progress"):
            knots = tuple(_checks.number(v, name) for v in getattr(self, name))
            if len(knots) < 2 or any(later <= earlier for earlier, later in pairwise(knots)):
                expected = "at least two strictly increasing numbers"
                raise ValueError(_checks.message(name, f"{knots}", expected))
            object.__setattr__(self, name, knots)
        if len(self.times) != len(self.progress):
            got = f"{len(self.progress)} numbers"
            raise ValueError(_checks.message("progress", got, f"{len(self.times)}, as of times"))

    @classmethod
    def by_distance(cls, course: TimeCourse, seed: int = 0, *, weight: float = 1.0) -> Clock:
        """Return the clock by which the cells of `course` travel evenly.

        With a `weight` below one, an interval's progress is the weighted geometric mean of the
        distance travelled in it and of the time it takes.

        The progress of an interval is the root of the mean squared distance along the exact plan
        between its snapshots. The noise of sampling is first taken off: the same mean between
        random halves of one snapshot, of as many cells (at most nine tenths are taken off). Of each
        snapshot up to 2,000 cells are looked at, drawn by the `seed`. In the end, progress is
        rescaled to the course's first and last time.
        """
        whole = enumerate(course.snapshots)
        halves = [s.shuffled(CELLS, stream_rng(seed, k, 60)) for k, s in whole]
        distances = np.array([_distance(a, b) for a, b in pairwise(halves)])
        times = np.array(course.times)
        even = np.diff(times) / (times[-1] - times[0])
        total = distances.sum()
        steps = np.maximum(distances / total, LEAST_STEP * even) if total > 0 else even
        steps = steps**weight * even ** (1 - weight)
        done = np.concatenate([[0.0], np.cumsum(steps)])
        progress = times[0] + done / done[-1] * (times[-1] - times[0])
        return cls(course.times, tuple(progress.tolist()))

    def __call__(self, time: float | ArrayLike) -> Tensor:
        """Progress at `time` of any shape: a tensor of that shape, float64, on the CPU."""
        t = _numbers(time, "time")
        inside = np.clip(t, self.times[0], self.times[-1])
        out = self._floor * (inside - self.times[0]) + self._cubic(inside)
        return torch.from_numpy(np.asarray(out + self._beyond(t) * (t - inside)))

    def rate(self, time: float | ArrayLike) -> Tensor:
        """Progress per unit of time at `time`, positive: the derivative, in that shape, float64."""
        t = _numbers(time, "time")
        inside = self._floor + np.maximum(self._cubic(t, 1), 0.0)  # zero but for rounding
        outside = (t < self.times[0]) | (t > self.times[-1])
        return torch.from_numpy(np.where(outside, self._beyond(t), inside))

    def slowest(self, start: float, end: float) -> float:
        """Smallest rate between the times `start` and `end`, of 257 that are evenly spaced."""
        return float(self.rate(np.linspace(start, end, 257)).min())

    def inverse(self, progress: float | ArrayLike) -> Tensor:
        """Time at which cells have come to `progress`, in that shape, float64."""
        p = _numbers(progress, "progress")
        times, knots = np.array(self.times), np.array(self.progress)
        k = np.clip(np.searchsorted(knots, p, side="right") - 1, 0, len(knots) - 2)
        low, high = times[k], times[k + 1]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            later = self(middle).numpy() < p
            low, high = np.where(later, middle, low), np.where(later, high, middle)
        end = np.where(p < knots[0], 0, -1)  # where it is outside
        outside = (p < knots[0]) | (p > knots[-1])
        line = times[end] + (p - knots[end]) / self._slopes[end]
        return torch.from_numpy(np.where(outside, line, (low + high) / 2))

    def retime(self, course: TimeCourse) -> TimeCourse:
        """Return `course` with the progress of its snapshots as their times."""
        return course.retimed(self(course.times).tolist())

    @cached_property
    def _slopes(self) -> np.ndarray:
        """Mean rate of each interval."""
        return np.diff(self.progress) / np.diff(self.times)

    @property
    def _floor(self) -> float:
        return float(LEAST_RATE * self._slopes.min())

    @cached_property
    def _cubic(self) -> PchipInterpolator:
        """What is left of the knots above the line; beyond them it is not asked."""
        times = np.array(self.times)
        return PchipInterpolator(times, self.progress - self._floor * (times - times[0]))

    def _beyond(self, t: np.ndarray) -> np.ndarray:
        """Rate outside the knots, at the side of `t`."""
        return self._slopes[np.where(t < self.times[0], 0, -1)]


def _numbers(values: float | ArrayLike, name: str) -> np.ndarray:
    return _checks.as_numbers(values, name).detach().cpu().double().numpy()


def _distance(source: Snapshot, target: Snapshot) -> float:
    """Root of the mean squared distance between two shuffled snapshots, without its noise."""
    size = max(1, min(len(source), len(target)) // 2)
    (a, b), (c, d) = (  # the first and the last cells; of one cell, that one twice
        [s.subset(torch.arange(k, k + size)) for k in (0, len(s) - size)] for s in (source, target)
    )
    between = Exact()(a, c).cost + Exact()(b, d).cost
    within = Exact()(a, b).cost + Exact()(c, d).cost
    return float(max(between - within, SIGNAL * between) ** 0.5)
