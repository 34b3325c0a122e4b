r"""Nothing to find: real cells dealt at random into conditions that differ in name alone.

\b
    python benchmarks/conditions/null.py --seeds 3

Embryoid bodies (`cf.datasets.embryoid`; Moon et al. 2019) in 5 and 50 components, cells of each day
dealt into a control and three drugs. A fit carries the cells of the first day, all of them, to each
later day under each condition. `apart` is the distance between the means of two conditions there,
root mean square over pairs and days; as all begin with the same cells, the right answer is zero.
`observed` is that of the cells themselves, by chance alone: the floor of any comparison, and what a
shift by the means of conditions, the yardstick, takes for an effect. `share` is the former over the
latter. Guidance is the evidence by default, 1 for what was learned; at last, the evidence of more
dealings, of which a test at a level of 5 % takes 5 % for effects.
"""

from __future__ import annotations

import warnings
from itertools import combinations
from statistics import fmean

import click
import torch

from cellflow import OTCFM, TimeCourse
from cellflow.conditions import Categorical, Conditions
from cellflow.datasets import embryoid
from cellflow.fits import evidence
from cellflow.networks import MLPConfig, ResidualConfig

DEALINGS = 100
DRUGS = ("control", "A", "B", "C")
NETWORKS = {
    "concat": MLPConfig(),
    "film": MLPConfig(condition="film"),
    "residual": ResidualConfig(),
}
GUIDANCE = {"evidence": None, "1": 1.0, "1.5": 1.5}


def dealt(dims: int, seed: int) -> TimeCourse:
    """The days of the set, cells dealt into conditions at random."""
    adata, rng = embryoid(), torch.Generator().manual_seed(seed)
    days, x = torch.tensor(adata.obs["day"].to_numpy()), torch.tensor(adata.obsm["X_pca"][:, :dims])
    times = sorted(set(days.tolist()))
    xs = [x[days == day] for day in times]
    known = Conditions((Categorical("drug", DRUGS),), tuple({"drug": d} for d in DRUGS), control=0)
    codes = [torch.randperm(len(cells), generator=rng) % len(DRUGS) for cells in xs]
    return TimeCourse.from_arrays(xs, times, conditions=known, codes=codes)


def apart(means: list[torch.Tensor]) -> float:
    """Root mean square, over pairs, of the distances of means, of which each has a row a day."""
    squares = [(a - b).square().sum(1) for a, b in combinations(means, 2)]
    return float(torch.stack(squares).mean().sqrt())


def observed(course: TimeCourse) -> float:
    each = range(len(DRUGS))
    later = course.snapshots[1:]
    return apart([torch.stack([s.x[s.condition == k].mean(0) for s in later]) for k in each])


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True, help="Of dealing and fitting.")
@click.option("--steps", default=1000, show_default=True)
def main(seeds: int, steps: int) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Conditions do not differ")
    print(f"Pseudo-conditions of embryoid bodies, {seeds} seeds, {steps} steps")
    print(f"{'dims':>4}  {'network':12}{'guidance':>9}{'apart':>9}{'observed':>10}{'share':>8}")
    for dims in (5, 50):
        courses = [dealt(dims, seed) for seed in range(seeds)]
        chance = [observed(course) for course in courses]
        for name, net in NETWORKS.items():
            fits = [
                OTCFM(net=net).fit(course, steps=steps, generator=seed, progress=False)
                for seed, course in enumerate(courses)
            ]
            for said, guidance in GUIDANCE.items():
                found = []
                for fit, course in zip(fits, courses, strict=True):
                    means = []
                    for drug in DRUGS:
                        given = fit.given({"drug": drug}, guidance=guidance)
                        states = given.simulate(course.snapshots[0].x, course.times).x[1:]
                        means.append(torch.stack([x.mean(0) for x in states]))
                    found.append(apart(means))
                a, b = fmean(found), fmean(chance)
                share = f"{a:9.3f}{b:10.3f}{a / b:8.2f}"
                print(f"{dims:4}  {name:12}{said:>9}{share}", flush=True)
    for dims in (5, 50):
        shares = [evidence(dealt(dims, seed)) for seed in range(DEALINGS)]
        print(
            f"{dims} dimensions: evidence above 0 in {sum(s > 0 for s in shares)} of {DEALINGS}",
            end="",
        )
        print(f" dealings, {fmean(shares):.3f} in the mean")


if __name__ == "__main__":
    main()
