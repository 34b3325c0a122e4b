"""Held-out W1 of the EMT time course in its ten native dimensions, all cells.

    python benchmarks/accuracy/emt.py emt_ae10.npz

Each interior time point is left out, methods are trained on all cells of the others, and all cells
of the time point before are carried to it. A method with a score is carried by the probability-flow
ODE and by the SDE; cells weigh by their masses, which differ where growth is learned. Index time;
nothing is whitened. The best published mean is .298.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import click
import numpy as np
import torch

from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods import OTCFM, SF2M, UOTCFM, FlowMatching
from cellflow.metrics import split_half_floor, wasserstein1
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import natural_sigma

PUBLISHED = 0.298
BUDGETS = (500, 1000, 2000)
WHOLE = Batching(block_size=None)


def read(path: str) -> TimeCourse:
    with np.load(path) as stored:
        x, t = stored["X"].astype(np.float32), stored["t"]
    return TimeCourse.from_arrays([torch.from_numpy(x[t == k]) for k in np.unique(t)])


def methods(course: TimeCourse, small: float) -> list[FlowMatching]:
    """Methods at their defaults, and at a diffusion of `small` times the data's own."""
    unit = small * natural_sigma(course)
    kinds = ("sinkhorn", "exact", "geodesic")
    return [
        OTCFM(unit),
        replace(OTCFM(unit, batching=WHOLE), name="otcfm, whole"),
        UOTCFM(unit),
        *(replace(SF2M(coupling=kind), name=f"sf2m_{kind}") for kind in kinds),
        *(replace(SF2M(unit, coupling=k), name=f"sf2m_{k}, small") for k in kinds[::2]),
    ]


def chosen_steps(course: TimeCourse, small: float) -> int:
    """Budget that training time points prefer, for OT-CFM on whole snapshots; prints the scores.

    For each time point left out, the one that is still interior is predicted from the others.
    """
    scores = {}
    for steps in BUDGETS:
        values = []
        for k in range(1, len(course) - 1):
            rest = course.without(k)
            method = OTCFM(small * natural_sigma(rest), batching=WHOLE)
            for inner in range(1, len(rest) - 1):
                fit = method.fit(rest.without(inner), steps=steps, progress=False)
                before, truth = rest.snapshots[inner - 1 : inner + 1]
                values.append(wasserstein1(fit.predict(before, truth.time).x, truth.x))
        scores[steps] = fmean(values)
    print("training time points, by steps:", {k: round(v, 4) for k, v in scores.items()})
    return min(scores, key=scores.get)


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--steps", type=int, help="Chosen on training time points when omitted.")
@click.option("--seeds", default=3)
@click.option("--small", default=0.1, help="A diffusion beside the default one, in the data's own.")
@click.option("--json", "target", type=click.Path(dir_okay=False))
def main(path: str, steps: int | None, seeds: int, small: float, target: str | None) -> None:
    torch.set_num_threads(1)
    course, begun = read(path), time.perf_counter()
    steps = steps or chosen_steps(course, small)
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for k in range(1, len(course) - 1):
        before, truth, after = course.snapshots[k - 1 : k + 2]
        rows, cols = Exact()(before, after).sample(len(before), 0)
        middle = torch.lerp(before.x[rows], after.x[cols], 0.5)
        scores["floor (halves)"][k] += split_half_floor(truth.x, wasserstein1, generator=0).tolist()
        scores["ot_midpoint"][k].append(wasserstein1(middle, truth.x))
        for method in methods(course.without(k), small):
            for seed in range(seeds):
                fit = method.fit(course.without(k), steps=steps, generator=seed, progress=False)
                solvers = ["rk4"] + ["euler_maruyama"] * (fit.dynamics.score is not None)
                for solver in solvers:
                    name = method.name if solver == "rk4" else f"{method.name}, {solver}"
                    cells = fit.predict(before, truth.time, solver=solver, generator=seed)
                    value = wasserstein1(cells.x, truth.x, x_mass=cells.mass, y_mass=truth.mass)
                    scores[name][k].append(value)
    print(f"emt, {course.dim} dimensions, all cells, {steps} steps, {seeds} seeds; W1")
    days = range(1, len(course) - 1)
    head = "".join(f"{f'time {k}':>17}" for k in days)
    print(f"{'':<34}{head}{'mean':>8}{'± se':>8}   published best")
    for name, row in scores.items():
        cells = "".join(f"{fmean(row[k]):>9.4f} ± {_spread(row[k]):.4f}" for k in days)
        means = [fmean(v) for v in zip(*row.values(), strict=True)]
        error = _spread(means) / len(means) ** 0.5
        print(f"{name:<34}{cells}{fmean(means):>8.4f}{error:>8.4f}   {PUBLISHED}")
    print(f"{time.perf_counter() - begun:.0f} s")
    if target:
        Path(target).write_text(json.dumps(scores, indent=1) + "\n")


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
