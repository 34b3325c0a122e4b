"""Cycles that transport cannot see: flows with and without velocities as reference.

    python benchmarks/conditions/reference.py PATH/repressilatormrna.npz

Two courses with known truth: cells that turn in the plane, seen 0.6 of a turn apart, and the
repressilator at even times. Between the times seen, predicted cells are compared with true ones of
the times left out. Velocities are the true drift at the cells; `error` is the standard deviation of
what was added to them, in those of each of their dimensions, and `unit` what they were multiplied
by: an RNA velocity tells directions better than speeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import click
import numpy as np
import torch
from torch import Tensor

from cellflow import toys
from cellflow.batches import Batching, PairSampler, Reference
from cellflow.couplings import Exact
from cellflow.methods import OTCFM, CurlyFM, FlowMatching
from cellflow.metrics import wasserstein1
from cellflow.paths import Carried
from cellflow.timecourse import TimeCourse

REPRESSOR = [2, 0, 1]


@dataclass
class Problem:
    """A course with true velocities, and the true cells half-way through its intervals."""

    course: TimeCourse
    between: Sequence[Tensor]
    drift: Callable[[Tensor], Tensor]

    def seen(self, error: float, unit: float, seed: int) -> TimeCourse:
        """Return the course with velocities as they might be measured."""
        rng = torch.Generator().manual_seed(seed)
        spread = self.drift(self.course.x).std(0)
        snapshots = []
        for s in self.course.snapshots:
            noise = torch.randn(s.x.shape, generator=rng, dtype=s.x.dtype)
            snapshots.append(replace(s, velocity=unit * (self.drift(s.x) + error * spread * noise)))
        return TimeCourse(tuple(snapshots))

    def score(self, middles: Sequence[Tensor]) -> float:
        """Mean W1 between predicted and true cells."""
        return fmean(wasserstein1(a, b) for a, b in zip(middles, self.between, strict=True))


def cycle() -> Problem:
    times, turn = [0.6 * k for k in range(4)], 2 * math.pi * torch.tensor([[0.0, -1], [1, 0]])
    between = toys.cycle(200, [t + 0.3 for t in times[:3]], generator=1)
    return Problem(
        toys.cycle(200, times), [s.x for s in between.snapshots], lambda x: x @ turn.T.to(x)
    )


def repressilator(path: str) -> Problem:
    with np.load(path) as file:
        cells = [torch.tensor(file["X"][file["t"] == t]).double() for t in range(11)]
    course = TimeCourse.from_arrays(cells[::2], range(0, 11, 2))
    return Problem(course, cells[1::2], lambda y: 10 / (1 + y[:, REPRESSOR] ** 3) - y)


def unlearned(course: TimeCourse) -> list[Tensor]:
    """Middles of the paths of whole plans; without velocities, those of straight lines."""
    batching = Batching(len(course.snapshots[0]), None)
    pairs = PairSampler(course, Exact(), batching, reference=Reference.of(course)).batch(0)
    middles = Carried(0.0).mean(pairs, torch.full_like(pairs.x0[:, :1], 0.5))
    return list(middles.split(batching.batch_size))


def learned(method: FlowMatching, course: TimeCourse, *, steps: int, seed: int) -> list[Tensor]:
    fit = method.fit(course, steps=steps, generator=seed, progress=False)
    times = [(a, [a.time, (a.time + b.time) / 2]) for a, b in course.steps]
    return [fit.simulate(a.x, both).final for a, both in times]


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--seeds", default=3, help="Of errors; fits have one.")
@click.option("--steps", default=1000)
def main(path: str, seeds: int, steps: int) -> None:
    torch.set_num_threads(1)
    problems = {"cycle": cycle(), "repressilator": repressilator(path)}
    print(f"W1 between the times seen: mean, least and largest of {seeds} seeds of errors")
    print(f"{'':<28}" + "".join(f"{name:>24}" for name in problems))

    def line(name: str, scores: Sequence[Sequence[float]]) -> None:
        told = (f"{fmean(s):.3f} ({min(s):.3f}, {max(s):.3f})" for s in scores)
        print(f"{name:<28}" + "".join(f"{text:>24}" for text in told), flush=True)

    still = [[p.score(unlearned(p.seen(0.0, 0.0, 0)))] for p in problems.values()]
    line("straight, unlearned", still)
    settings = [(e, 1.0) for e in (0.0, 0.1, 0.3, 0.5)] + [(0.0, u) for u in (0.5, 0.8, 1.25)]
    for error, unit in settings:
        every = range(seeds if error else 1)
        rows = [
            [p.score(unlearned(p.seen(error, unit, k))) for k in every] for p in problems.values()
        ]
        line(f"carried, error {error:g}, unit {unit:g}", rows)
    for method in (OTCFM(), CurlyFM()):
        courses = [(p, p.seen(0.0, 1.0, 0)) for p in problems.values()]
        rows = [[p.score(learned(method, c, steps=steps, seed=0))] for p, c in courses]
        line(f"{method.name}, {steps} steps", rows)


if __name__ == "__main__":
    main()
