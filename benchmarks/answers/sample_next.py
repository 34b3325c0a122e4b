"""Does the day that an ensemble asks for tell more than another? On simulated, branching courses.

    python benchmarks/answers/sample_next.py [--courses 20]

Cells drift along the first axis, quickly around a random time, and part along the second at
another, into branches of unequal size; a third axis is noise. 150 cells are sampled on days 0 and
10 and on two or three random days between. An ensemble of bootstrap members says which day to
sample next (``uns["sample_next"]``, to the nearest day not sampled). That day is added, or the
one in the middle of the widest gap, or any other, and a flow is fitted anew. Its error is W2
from 400 fresh cells, a mean over the days that were not sampled at first.

A random day is the mean over all of them, the best day the one whose error is least, which no rule
can know. The gain is the share of the error without another day that the added one takes away;
in brackets 95 % intervals of means over courses (Student's), of errors as differences from those of
the suggested day.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import click
import numpy as np
import torch
from scipy import stats

import cellflow as cf
from cellflow.answers.uncertainty import disagreements
from cellflow.batches import Batching
from cellflow.metrics import wasserstein2
from cellflow.networks import MLPConfig
from cellflow.several import fit_members
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import FitOptions

DAYS, CELLS, TRUTH, DT = 10, 150, 400, 0.02
MEMBERS, STEPS = 6, 300
METHOD = cf.OTCFM(0.1, net=MLPConfig(48, 2), batching=Batching(128, prefetch=False))


@dataclass(frozen=True)
class World:
    """A branching process: when and how evenly it branches, and when it moves fast."""

    seed: int
    branching: float
    share: float
    fast: float

    @classmethod
    def drawn(cls, seed: int) -> World:
        rng = np.random.default_rng(seed)
        return cls(seed, rng.uniform(2, 8), rng.uniform(0.3, 0.7), rng.uniform(1, 9))

    @cache  # noqa: B019 (of a few courses)
    def cells(self, day: int, n: int, seed: int) -> torch.Tensor:
        """Draw `n` cells of a day, by Euler and Maruyama's steps."""
        rng = np.random.default_rng((self.seed, day, seed))
        x = rng.normal(0.0, 0.3, (n, 3))
        side = np.where(rng.random(n) < self.share, 1.0, -1.0)
        for k in range(round(day / DT)):
            t = k * DT
            drift = np.zeros_like(x)
            drift[:, 0] = 0.5 + 2.0 * np.exp(-0.5 * ((t - self.fast) / 0.7) ** 2)
            drift[:, 1] = (3.0 * side if t > self.branching else 0.0) - x[:, 1]
            drift[:, 2] = -x[:, 2]
            x += drift * DT + 0.4 * np.sqrt(DT) * rng.normal(size=x.shape)
        return torch.from_numpy(x).float()


def course_of(world: World, days: Sequence[int]) -> TimeCourse:
    return TimeCourse(tuple(Snapshot(world.cells(d, CELLS, 0), float(d)) for d in sorted(days)))


def error(world: World, days: Sequence[int], unseen: Sequence[int]) -> float:
    """Mean W2 from fresh cells of the days `unseen`, of a fit to the days `days`."""
    fit = METHOD.fit(course_of(world, days), steps=STEPS, generator=0, progress=False)
    cells = [fit.interpolate(float(day), generator=0) for day in unseen]
    truth = [world.cells(day, TRUTH, 1) for day in unseen]
    return float(np.mean([wasserstein2(c.x, y) for c, y in zip(cells, truth, strict=True)]))


def nearest(time: float, days: Sequence[int]) -> int:
    return min(days, key=lambda day: abs(day - time))


def one(seed: int) -> dict[str, float]:
    """Errors of a course without another day and with the day of each rule, and the days."""
    rng, world = np.random.default_rng((seed, 1)), World.drawn(seed)
    between = rng.choice(np.arange(1, DAYS), int(rng.integers(2, 4)), replace=False)
    days = sorted([0, *between.tolist(), DAYS])
    unseen = [day for day in range(1, DAYS) if day not in days]
    options = FitOptions(steps=STEPS, generator=seed, progress=False)
    ensemble = fit_members(
        METHOD, course_of(world, days), options, members=MEMBERS, bootstrap=True, workers=1
    )
    told = max(disagreements(ensemble), key=lambda found: found.spread)
    start, end = max(pairwise(days), key=lambda gap: gap[1] - gap[0])
    errors = {day: error(world, [*days, day], unseen) for day in unseen}
    suggested, middle = nearest(told.time, unseen), nearest((start + end) / 2, unseen)
    best = min(errors, key=lambda day: errors[day])
    print(
        f"{seed}: {days}, branching at {world.branching:.1f}, fast at {world.fast:.1f}; "
        f"suggested {suggested}, middle {middle}, best {best}",
        file=sys.stderr,
        flush=True,
    )
    return {
        "no other day": error(world, days, unseen),
        "suggested": errors[suggested],
        "middle of the widest gap": errors[middle],
        "random": float(np.mean(list(errors.values()))),
        "best": errors[best],
        "same": float(suggested == middle),
    }


def interval(values: np.ndarray) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():6.3f} [{values.mean() - half:6.3f}, {values.mean() + half:6.3f}]"


@click.command()
@click.option("--courses", type=click.IntRange(min=2), default=20, show_default=True)
def main(courses: int) -> None:
    torch.set_num_threads(1)
    found = [one(seed) for seed in range(courses)]
    table = {name: np.array([each[name] for each in found]) for name in found[0]}
    same = table.pop("same")
    print(f"{courses} courses; suggested is the middle of the widest gap in {int(same.sum())}")
    print(f"{'added day':<26}{'W2':>6}  {'less the suggested day':<26}gain")
    before = table["no other day"]
    for name, errors in table.items():
        off, gain = interval(errors - table["suggested"]), interval(1 - errors / before)
        print(f"{name:<26}{errors.mean():6.3f}  {off:<26}{gain}")


if __name__ == "__main__":
    sys.exit(main())
