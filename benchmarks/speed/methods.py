"""What a step of each method costs, at its defaults.

    python benchmarks/speed/methods.py [--dims 5] [--rounds 3]

Milliseconds of processor time, of all threads, which a busy machine changes little: those of a long
fit less those of a short one, each the least of the rounds, over the difference of their steps,
after a fit that compiles. Five snapshots of 1,000 cells drift and spread, with their velocities.
"""

from __future__ import annotations

import time

import click
import torch

from cellflow.methods import METHODS
from cellflow.timecourse import Snapshot, TimeCourse

#: Steps of the short and of the long fit; of methods that simulate in each step, fewer.
STEPS, FEWER = (100, 300), (3, 8)


def cells(dims: int) -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [k + (1 + k / 4) * torch.randn(1000, dims, generator=g) for k in range(5)]
    return TimeCourse([Snapshot(x, k, velocity=torch.ones_like(x)) for k, x in enumerate(xs)])


def spent(name: str, course: TimeCourse, steps: int) -> float:
    """Seconds of processor time of a fit."""
    begun = time.process_time()
    METHODS[name]().fit(course, steps=steps, progress=False)
    return time.process_time() - begun


def milliseconds(name: str, course: TimeCourse, rounds: int) -> float:
    """Processor time of a step."""
    short, long = FEWER if name == "cnf" else STEPS
    spent(name, course, 3)
    first, last = (min(spent(name, course, n) for _ in range(rounds)) for n in (short, long))
    return 1000 * (last - first) / (long - short)


@click.command()
@click.option("--dims", default=5, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(dims: int, rounds: int) -> None:
    course = cells(dims)
    unit = milliseconds("otcfm", course, rounds)
    print(f"{dims} components, {rounds} rounds   ms a step   to otcfm")
    print(f"{'otcfm':25} {unit:11.2f} {1:10.1f}")
    for name in METHODS:
        if name != "otcfm":
            each = milliseconds(name, course, rounds)
            print(f"{name:25} {each:11.2f} {each / unit:10.1f}", flush=True)


if __name__ == "__main__":
    main()
