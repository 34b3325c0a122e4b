"""Neutrophil against monocyte fate in two dimensions, beside published predictions.

    python benchmarks/answers/fates_spring.py FILE        # larry_spring2d.npz

Cells of day 2 on the neutrophil and monocyte trajectory (Weinreb et al. 2020) have a bias towards
neutrophils that was found from clones and smoothed over cells; Pearson's r with it on the half held
out is printed, beside that of the predictions of three methods that were published with the cells.

Our methods get two coordinates of a layout (SPRING) and no type. So cells of day 6 are put into k
groups by k-means, of which one counts as neutrophils and one as monocytes: k, and which two, are
chosen for each row by r on the other half of the cells. That half is no independent judge, because
the truth is smoothed over cells of both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise, permutations
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from sklearn.cluster import KMeans

import cellflow as cf
from cellflow.answers import fates_by_plans, shares_near
from cellflow.answers.fates import futures
from cellflow.couplings import Coupling, Exact, Unbalanced
from cellflow.methods import Method
from cellflow.plans import Transitions, sparsify
from cellflow.timecourse import Snapshot, TimeCourse

#: Cells of each day that methods see, numbers of groups, futures of a cell where there is noise.
SIZE, GROUPS, FUTURES = 2000, range(2, 9), 10
BLURS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5)
PUBLISHED = {"WOT": "pred_wot", "PBA": "pred_pba", "FateID": "pred_fateid"}
#: From labels of the cells of day 6 to shares of each among the descendants of all cells of day 2.
Fates = Callable[[list[str]], np.ndarray]


class Truth(NamedTuple):
    """Cells of day 2, their bias towards neutrophils, who is tested, and published predictions."""

    x: torch.Tensor
    bias: np.ndarray
    tested: np.ndarray
    published: dict[str, np.ndarray]


def read(path: Path) -> tuple[TimeCourse, Truth]:
    """Some cells of each day, and the truth."""
    with np.load(path) as z:
        mask = z["neu_mo_mask"]
        x, day = torch.from_numpy(z["X"][mask]), torch.from_numpy(z["t"][mask])
        published = {name: z[key] for name, key in PUBLISHED.items()}
        truth = Truth(x[day == 2], z["gt_neu_bias"], z["heldout_mask"], published)
    rng = torch.Generator().manual_seed(0)
    days = (Snapshot(x[day == t], float(t)).shuffled(SIZE, rng) for t in (2, 4, 6))
    return TimeCourse(tuple(days)), truth


def chosen(fates: Fates, course: TimeCourse, truth: Truth) -> tuple[float, int, float]:
    """Best r on the half that is not tested, its number of groups, and r on the other."""
    found = []
    for k in GROUPS:
        last = course.snapshots[-1].x.numpy()
        group = KMeans(k, n_init=5, random_state=0).fit(last).labels_
        p = np.nan_to_num(fates([str(g) for g in group]))
        for a, b in permutations(range(k), 2):
            bias = (p[:, a] + 1e-9) / (p[:, a] + p[:, b] + 2e-9)
            halves = [
                float(np.corrcoef(bias[half], truth.bias[half])[0, 1])
                for half in (~truth.tested, truth.tested)
            ]
            found.append((halves[0], k, halves[1]))
    return max(found)


def by_neighbours(course: TimeCourse, truth: Truth) -> Fates:
    return partial(near, truth.x, course.snapshots[-1].x)


def near(x: torch.Tensor, cells: torch.Tensor, labels: list[str]) -> np.ndarray:
    """Shares of labels around places."""
    marks = torch.nn.functional.one_hot(torch.tensor([int(v) for v in labels])).double()
    return shares_near(x, cells, marks).numpy()


def by_plans(coupling: Coupling, course: TimeCourse, truth: Truth) -> Fates:
    """Of cells that no plan has seen, by those around them that one has."""
    steps = tuple(sparsify(coupling(a, b)) for a, b in pairwise(course.snapshots))
    chain, first = Transitions(course.times, steps), course.snapshots[0]

    def fates(labels: list[str]) -> np.ndarray:
        p = fates_by_plans(chain, labels, start=course.times[0], end=course.times[-1])
        return shares_near(truth.x, first.x, p.probabilities.nan_to_num()).numpy()

    return fates


def by_flow(make: Callable[[], Method], course: TimeCourse, truth: Truth) -> Fates:
    fit = make().fit(course, generator=0, progress=False)
    copies = FUTURES if fit.dynamics.sigma > 0 else 1
    x, last = truth.x.repeat(copies, 1), course.snapshots[-1]
    there = futures(fit, Snapshot(x, course.times[0]), last.time)

    def fates(labels: list[str]) -> np.ndarray:
        p = near(there.x, last.x, labels) * there.mass.numpy()[:, None]
        return p.reshape(copies, len(truth.x), -1).sum(0)

    return fates


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(path: Path) -> None:
    torch.set_num_threads(1)
    course, truth = read(path)
    print(f"{len(truth.x)} cells of day 2, {int(truth.tested.sum())} of them tested;")
    print(f"methods see {SIZE} cells of each of days 2, 4 and 6")
    show("", "groups", "r chosen by", "r tested")
    for name, p in truth.published.items():
        r = np.corrcoef(p[truth.tested], truth.bias[truth.tested])[0, 1]
        show(f"{name}, published", "", "", f"{r:.3f}")
    ways = {"neighbours on day 6": by_neighbours, "exact plans": partial(by_plans, Exact())}
    for blur in BLURS:
        plan = Unbalanced(relative_epsilon=blur)
        ways[f"unbalanced plans, ε {blur:g}"] = partial(by_plans, plan)
    for make in (cf.OTCFM, cf.SF2M, cf.UOTCFM):
        ways[f"{make.__name__} flow"] = partial(by_flow, make)
    for name, way in ways.items():
        seen, groups, tested = chosen(way(course, truth), course, truth)
        show(name, str(groups), f"{seen:.3f}", f"{tested:.3f}")


def show(*cells: str) -> None:
    print("".join(f"{c:<{w}}" for c, w in zip(cells, (26, 9, 14, 9), strict=True)).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
