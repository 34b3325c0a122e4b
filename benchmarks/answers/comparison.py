"""Does a comparison of conditions find what is there, and only that? On simulated courses.

    python benchmarks/answers/comparison.py [--courses 40]

Cells in five dimensions drift along the first; of condition "b" they also drift along the second,
by so much per day more. On each of three days are 100 cells, each of either condition at random.
For each difference: the share of courses whose p value over all times is at most .05, with a 95 %
interval (Wilson's), and the mean p value. Without a difference p is uniform on 1/20, …, 1: its
distance from that (Kolmogorov and Smirnov) and the p value of the distance are printed, too.
"""

from __future__ import annotations

import sys

import click
import torch
from scipy import stats
from tqdm import tqdm

from cellflow import OTCFM
from cellflow.answers import compare
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import FitOptions, Training

#: Drift of "b" along the second dimension, in standard deviations of a day's cells per day.
DIFFERENCES = (0.0, 0.25, 0.5, 1.0)
DAYS, CELLS, PERMUTATIONS, STEPS = 3, 100, 19, 100
METHOD = OTCFM(
    0.1,
    net=MLPConfig(16, 2),
    batching=Batching(64, 64, prefetch=False),
    training=Training(learning_rate=5e-3, validation=0.0),
)


def course(difference: float, seed: int) -> TimeCourse:
    rng, days = torch.Generator().manual_seed(seed), []
    for day in range(DAYS):
        x = torch.randn(CELLS, 5, generator=rng)
        treated = torch.rand(CELLS, generator=rng) < 0.5
        x[:, 0] += day
        x[:, 1] += difference * day * treated
        days.append(Snapshot(x, float(day), labels=["b" if b else "a" for b in treated.tolist()]))
    return TimeCourse(tuple(days))


@click.command()
@click.option("--courses", default=40, show_default=True)
def main(courses: int) -> None:
    print(f"{courses} courses, {PERMUTATIONS} permutations, {STEPS} steps a fit")
    print(f"{'difference':12}{'p <= .05':24}{'mean p':>8}")
    for difference in DIFFERENCES:
        p: list[float] = []
        for seed in tqdm(range(courses), leave=False, file=sys.stderr):
            options = FitOptions(steps=STEPS, generator=seed, progress=False)
            found = compare(course(difference, seed), METHOD, options, n_permutations=PERMUTATIONS)
            p.append(found.overall)
        hits = sum(value <= 0.05 + 1e-9 for value in p)
        low, high = stats.binomtest(hits, courses).proportion_ci(method="wilson")
        share = f"{hits / courses:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{difference:<12g}{share:24}{sum(p) / courses:8.3f}", end="")
        if difference == 0:
            dither = torch.rand(courses, generator=torch.Generator().manual_seed(0)).tolist()
            even = [v - u / (PERMUTATIONS + 1) for v, u in zip(p, dither, strict=True)]
            test = stats.kstest(even, "uniform")
            print(f"   from uniform: {test.statistic:.3f} (p = {test.pvalue:.2f})", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
