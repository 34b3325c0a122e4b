"""Cells whose number grows: weighted W1 and mass by time, beside DeepRUOT's published figures.

    python benchmarks/accuracy/growth.py FOLDER
    python benchmarks/accuracy/growth.py FOLDER --dataset tigon_sim3d

FOLDER holds `simgene2d.npz` and `tigon_sim3d.npz`: simulated regulatory networks of two or three
genes, in which cells divide at a rate that the second gene sets and none dies, five snapshots, as
many cells at each as there are. The protocol is that of DeepRUOT (Zhang et al. 2025) and of the
papers that compare with it: fit to all five; then carry all cells of time 0, of mass one each, to
the others; W1 between them, weighted by mass, and all cells seen there, and the relative error of
their total mass. Every figure is therefore one of fit, not of prediction.

`defaults` are the methods as they come. `fine` is the bridge with settings that were chosen by this
very score: see the text beside the table.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

import cellflow as cf
from cellflow.batches import Batching
from cellflow.methods import UBSB, UOTCFM, FlowMatching
from cellflow.metrics import split_half_floor, wasserstein1
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import Training

#: W1 at times 1 to 4.
PUBLISHED = {"simgene2d": {"DeepRUOT": (0.0452, 0.0385, 0.0445, 0.0572)}}
#: Steps of the two kinds.
STEPS = {"defaults": 3000, "fine": 5000}
#: Whole plans, no cells kept for validation, a faster start.
FINE = {
    "relaxation": 3.0,
    "batching": Batching(block_size=None),
    "training": Training(learning_rate=3e-3, validation=0.0),
}


def methods() -> list[tuple[FlowMatching, str, str]]:
    """Methods, the kind of their settings, and the solver."""
    return [
        (cf.OTCFM(), "defaults", "rk4"),
        (UOTCFM(), "defaults", "rk4"),
        (UBSB(), "defaults", "rk4"),
        (UBSB(0.05, **FINE), "fine", "rk4"),
        (UBSB(0.05, **FINE), "fine", "euler_maruyama"),
    ]


def read(path: Path) -> TimeCourse:
    """All cells of a file, of mass one each."""
    with np.load(path) as data:
        x, t = torch.from_numpy(data["X"]), data["t"]
    xs = [x[torch.from_numpy(t == k)] for k in np.unique(t)]
    return TimeCourse.from_arrays(xs, masses=[torch.ones(len(x)) for x in xs])


def score(fit: cf.Fit, solver: str, seed: int) -> tuple[list[float], list[float]]:
    """W1 and relative error of mass at every time but the first."""
    first, *others = fit.course.snapshots
    out = fit.simulate(first.x, fit.course.times, solver=solver, generator=seed)
    mass = out.mass if out.mass is not None else torch.ones(out.x.shape[:2])
    w1 = [
        wasserstein1(x, truth.x, x_mass=m)
        for x, m, truth in zip(out.x[1:], mass[1:], others, strict=True)
    ]
    ratios = [float(m.sum()) / len(s) for m, s in zip(mass[1:], others, strict=True)]
    return w1, [abs(ratio - 1.0) for ratio in ratios]


def agreement(fit: cf.Fit) -> tuple[float, float]:
    """Correlation of growth with the true law over all cells, and the slope through the origin.

    The law is α X₂² / (1 + X₂²), with an α that is not published in these units of time.
    """
    if fit.dynamics.growth is None:
        return float("nan"), float("nan")
    rate = torch.cat([fit.growth(s.time, s.x) for s in fit.course.snapshots]).double()
    square = fit.course.x[:, 1].double().square()
    law = square / (1.0 + square)
    both = torch.corrcoef(torch.stack([rate, law]))
    return float(both[0, 1]), float(rate @ law / (law @ law))


def told(values: list[float], digits: int = 4) -> str:
    """Mean and standard error over seeds."""
    if np.isnan(values[0]):
        return "-"
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def show(name: str, cells: list[str]) -> None:
    print(f"{name:<28}" + "".join(f"{cell:<17}" for cell in cells).rstrip(), flush=True)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", type=click.Choice(["simgene2d", "tigon_sim3d"]), default="simgene2d")
@click.option("--seeds", default=3)
@click.option("--only", multiple=True, help="Names of methods.")
def main(folder: Path, dataset: str, seeds: int, only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    start, course = time.perf_counter(), read(folder / f"{dataset}.npz")
    later = course.snapshots[1:]
    print(f"{dataset}: {', '.join(str(len(s)) for s in course.snapshots)} cells, {seeds} seeds")
    columns = [f"time {s.time:g}" for s in later]
    show("W1 (mean ± standard error)", [*columns, "corr of growth", "its slope"])
    for name, row in PUBLISHED.get(dataset, {}).items():
        show(f"{name} (published)", [f"{value:.4f}" for value in row])
    floor = [split_half_floor(s.x, wasserstein1, generator=0, repeats=5).tolist() for s in later]
    show("two halves of the cells", [told(values) for values in floor])
    masses, fits = {}, {}
    for method, kind, solver in methods():
        if only and method.name not in only:
            continue
        label = f"{method.name}, {kind}" + ("" if solver == "rk4" else ", SDE")
        for seed in range(seeds):
            if (method, seed) not in fits:
                options = {"steps": STEPS[kind], "generator": seed, "progress": False}
                fits[method, seed] = method.fit(course, **options)
        done = [score(fits[method, seed], solver, seed) for seed in range(seeds)]
        masses[label] = [told(list(values)) for values in zip(*(m for _, m in done), strict=True)]
        growth = zip(*(agreement(fits[method, seed]) for seed in range(seeds)), strict=True)
        row = [told(list(values)) for values in zip(*(w for w, _ in done), strict=True)]
        show(label, row + [told(list(values), 3) for values in growth])
    show("relative error of mass", columns)
    for label, row in masses.items():
        show(label, row)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
