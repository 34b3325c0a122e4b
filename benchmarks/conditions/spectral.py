"""Spectral against Euclidean ground costs in many components, by days left out.

    python benchmarks/conditions/spectral.py FOLDER --seeds 2 --steps 1000

Embryoid bodies (`eb_sub2750_pca100`; Moon et al. 2019), raw principal components: each interior day
is left out, OT-CFM by exact plans of each cost is fitted to the others, and the cells of the day
before are carried to it. Midpoints lie half-way between the pairs of the plans, and learn nothing.
Exact W1 to the cells left out, means over days; of fits, mean and deviation over seeds. The floor
is the distance of two halves of a day.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import click
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy import sets as stored
from cellflow import OTCFM, TimeCourse
from cellflow.costs import HalfSquared, Spectral
from cellflow.couplings import Exact
from cellflow.evaluate.table import deviation
from cellflow.metrics import split_half_floor, wasserstein1

COSTS = {
    "half squared": HalfSquared(),
    "euclidean": "euclidean",
    "cosine": "cosine",
    "spectral, 10 vectors": Spectral(n_vectors=10),
    "spectral, 30 vectors": Spectral(),
}
#: Costs that flows are fitted by.
FITTED = ("half squared", "spectral, 30 vectors")


def midpoint(coupling: Exact, course: TimeCourse, k: int) -> torch.Tensor:
    """Cells half-way between the days around day `k`, which the coupling has not seen."""
    before, after = course.snapshots[k - 1], course.snapshots[k + 1]
    rows, cols = coupling.fitted_to(course.without(k))(before, after).sample(len(before), 0)
    share = (course.times[k] - before.time) / (after.time - before.time)
    return torch.lerp(before.x[rows], after.x[cols], share)


def carried(coupling: Exact, course: TimeCourse, k: int, seed: int, steps: int) -> torch.Tensor:
    """Cells of the day before, carried to day `k`, by a flow that has not seen it."""
    method = replace(OTCFM(), coupling=coupling)
    fit = method.fit(course.without(k), steps=steps, generator=seed, progress=False)
    return fit.predict(course.snapshots[k - 1], course.times[k], generator=seed).x


@click.command(help=__doc__.split("\n")[0])
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--dims", default="50,100")
@click.option("--seeds", default=2)
@click.option("--steps", default=1000)
def main(folder: Path, dims: str, seeds: int, steps: int) -> None:
    start = time.perf_counter()
    print(f"eb_sub2750_pca100, W1 of days left out, {steps} steps, {seeds} seeds")
    print(f"{'components':<12}{'':<34}{'mean':>8}{'seeds':>9}")
    for d in map(int, dims.split(",")):
        course = stored.read(folder / "eb_sub2750_pca100.npz", d)
        days = range(1, len(course) - 1)
        truth = [course.snapshots[k].x for k in days]
        floors = [float(split_half_floor(x, wasserstein1, generator=0).mean()) for x in truth]
        print(f"{d:<12}{'floor (halves)':<34}{fmean(floors):8.3f}", flush=True)
        for name, cost in COSTS.items():
            found = [
                wasserstein1(midpoint(Exact(cost=cost), course, k), truth[k - 1]) for k in days
            ]
            print(f"{d:<12}{'midpoint, ' + name:<34}{fmean(found):8.3f}", flush=True)
        for name in FITTED:
            means = [
                fmean(
                    wasserstein1(
                        carried(Exact(cost=COSTS[name]), course, k, s, steps), truth[k - 1]
                    )
                    for k in days
                )
                for s in range(seeds)
            ]
            row = f"{d:<12}{'OT-CFM, ' + name:<34}{fmean(means):8.3f}{deviation(means):9.3f}"
            print(row, flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
