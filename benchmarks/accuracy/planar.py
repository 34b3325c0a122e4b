"""Flows between planar clouds: distance to the target, and energy of the way there.

    python benchmarks/accuracy/planar.py

The table of Tong et al. 2023 ([SF]2M, two-dimensional experiments; as Tong et al. 2024, OT-CFM,
section 6): 10,000 training cells, batches of 512, the flow solved by 100 Euler steps. W2 is the
exact Wasserstein-2 distance of the carried test cells from the target's; NPE is
``|∫ E|v|² dt − W2²(q0, q1)| / W2²(q0, q1)``.

The clouds are those of the reference code's runner: eight modes of deviation 1 on a circle of
radius 5; the moons and the S of scikit-learn with noise 0.05, times 2 and 1.5; and for moons → 8
gaussians, moons of deviation 7 and modes of deviation 1.5 on a circle of radius 12.

Published distances lie below what two samples of 1,000 cells of one law have, so they were not
taken on 1,000 fresh cells. Here 10,000 are carried, twice: fresh ones, against fresh cells of the
target ("fresh"), and the training cells against the training cells of the target ("seen"), as
where one set is trained on and tested on; W2² in NPE is that between the same cells. "Two samples"
are 10,000 cells of the target and 10,000 others of it.
"""

from __future__ import annotations

import statistics
import time

import click
import numpy as np
import ot
import torch
from sklearn.datasets import make_moons, make_s_curve

from cellflow import TimeCourse, toys
from cellflow.batches import Batching
from cellflow.methods import OTCFM, SF2M
from cellflow.networks import MLPConfig
from cellflow.training.trainer import Training

CELLS, STEPS, SIGMA = 10_000, 100, 0.02
PUBLISHED = {  # W2 and NPE, best in its column whichever the method
    "N-8gaussians": (0.275, 0.016),
    "moons-8gaussians": (0.601, 0.015),
    "N-moons": (0.124, 0.053),
    "N-scurve": (0.128, 0.027),
}


def cloud(name: str, seed: int) -> torch.Tensor:
    """Training cells and then test cells of one law, shape ``(2 · 10,000, 2)``."""
    n = 2 * CELLS
    rng = np.random.default_rng(seed)
    state = int(rng.integers(2**31))
    if name == "N":
        x = rng.standard_normal((n, 2))
    elif name in ("8gaussians", "8gaussians wide"):
        radius, std = (5.0, 1.0) if name == "8gaussians" else (12.0, 1.5)
        x = toys.eight_gaussians(n, radius=radius, std=std, generator=state).numpy()
    elif name == "moons":
        x = 2.0 * make_moons(n, noise=0.05, random_state=state)[0] - np.array([1.0, 0.0])
    elif name == "moons wide":
        x = make_moons(n, noise=0.1, random_state=state)[0]
        x = 7.0 * (x - x.mean()) / x.std()
    else:
        x = 1.5 * make_s_curve(n, noise=0.05, random_state=state)[0][:, [0, 2]]
    # scikit-learn lays its moons on a grid: shuffled, each half is a random part of it.
    return torch.as_tensor(x[rng.permutation(n)]).float()


def ends(task: str) -> tuple[str, str]:
    if task == "moons-8gaussians":
        return "moons wide", "8gaussians wide"
    source, target = task.split("-")
    return source, target


def methods() -> dict:
    """One configuration for all columns."""
    shared = {
        "net": MLPConfig(width=128),
        "batching": Batching(batch_size=512, block_size=2048),
        "training": Training(learning_rate=3e-3, validation=0.0),
    }
    return {"otcfm": OTCFM(SIGMA, **shared), "sf2m": SF2M(SIGMA, coupling="exact", **shared)}


def w2(x: torch.Tensor, y: torch.Tensor) -> float:
    cost = ot.dist(x.double().numpy(), y.double().numpy())
    return float(ot.emd2([], [], cost, numItermax=10**8)) ** 0.5


def energy(trajectory) -> float:
    """Mean of |v|² over cells and over the Euler steps that were taken."""
    moves = (trajectory.x[1:] - trajectory.x[:-1]).double() * STEPS
    return float(moves.square().sum(-1).mean())


def run(task: str, seed: int, *, steps: int, fits: dict) -> dict[str, tuple[float, float]]:
    source, target = (cloud(c, 10 * seed + k) for k, c in enumerate(ends(task)))
    seen, fresh = ((source[half], target[half]) for half in (slice(CELLS), slice(CELLS, None)))
    course = TimeCourse.from_arrays(list(seen), [0.0, 1.0])
    best = {"fresh": w2(*fresh) ** 2, "seen": w2(*seen) ** 2}
    rows = {"two samples": (w2(seen[1], fresh[1]), abs(best["fresh"] / best["seen"] - 1.0))}
    times = [k / STEPS for k in range(STEPS + 1)]
    for name, method in fits.items():
        fit = method.fit(course, steps=steps, generator=seed, progress=False)
        for kind, (x0, x1) in (("fresh", fresh), ("seen", seen)):
            way = fit.simulate(x0, times, solver="euler", max_step=1.0 / STEPS)
            excess = abs(energy(way) - best[kind]) / best[kind]
            rows[f"cellflow {name}, {kind}"] = (w2(way.final, x1), excess)
    return rows


def summary(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.3f} ± {error:.3f}"


def line(name: str, cells: list[str]) -> str:
    return f"{name:<24}" + "".join(f"{c:<20}" for c in cells).rstrip()


@click.command()
@click.option("--task", "tasks", multiple=True, default=tuple(PUBLISHED))
@click.option("--seeds", default=3)
@click.option("--first-seed", default=0)
@click.option("--steps", default=6000)
@click.option("--method", "names", multiple=True, default=("otcfm", "sf2m"))
def main(tasks, seeds, first_seed, steps, names) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    fits, rows = {k: m for k, m in methods().items() if k in names}, {}
    for task in tasks:
        each = range(first_seed, first_seed + seeds)
        rows[task] = [run(task, seed, steps=steps, fits=fits) for seed in each]
        click.echo(f"{task} {rows[task]}", err=True)
    print(f"{CELLS:,} training cells, {steps} steps, {seeds} seeds from {first_seed} (± s.e.)")
    print(f"3 x 128, blocks of 2,048, learning rate 3e-3, sigma {SIGMA}")
    for k, title in enumerate((f"W2, {CELLS:,} cells", "NPE")):
        print(line(title, list(tasks)))
        print(line("best published", [f"{PUBLISHED[t][k]:.3f}" for t in tasks]))
        for name in rows[tasks[0]][0]:
            print(line(name, [summary([r[name][k] for r in rows[t]]) for t in tasks]))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
