"""Energy distance on the CITE-seq cells by LightSB's protocol, 50 and 100 components.

    python benchmarks/accuracy/energy.py cite13176_pca100.npz
    python benchmarks/accuracy/energy.py bundled --choose --steps 1000  # the diffusion

Korotin, Gushchin & Burnaev (2024, "Light Schrödinger bridge", single-cell section): methods see two
days alone and are scored at a day between, 2 -> 4 at day 3 and 3 -> 7 at day 4. All cells of the
first day are simulated; the distance is half of the unbiased energy distance, averaged over both
settings. The CITE-seq file is the one that the authors published. Raw components, real days.

`lightsb_noise` has the diffusion of their notebook: epsilon 0.1 for the whole span, after division
by the mean standard deviation of the components (theirs over all three days, here over the two
that are trained on).
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

from cellflow.couplings import Exact
from cellflow.datasets import embryoid
from cellflow.methods import SF2M, FlowMatching
from cellflow.metrics import energy_distance
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import natural_sigma

PUBLISHED = {50: {"LightSB": "2.31 ± 0.27"}, 100: {"LightSB": "2.16 ± 0.26"}}
#: Diffusion as a multiple of the data's own, by `--choose`.
CHOSEN = 1.0
MULTIPLES = (0.1, 0.3, 0.6, 1.0, 1.5)
SOLVERS = ("euler_maruyama", "rk4")


def half_energy(x: torch.Tensor, y: torch.Tensor) -> float:
    return energy_distance(x, y, unbiased=True) / 2


def read(path: str) -> dict[float, torch.Tensor]:
    if path == "bundled":
        adata = embryoid()
        x, t = adata.obsm["X_pca"], adata.obs["day"].to_numpy()
    else:
        with np.load(path) as stored:
            x, t = stored["X"], stored["t"]
    return {float(k): torch.from_numpy(x[t == k].astype(np.float32)) for k in np.unique(t)}


def unlearned(ends: TimeCourse, day: float, sigma: float) -> torch.Tensor:
    """Cells met on Brownian bridges of `sigma` between exactly coupled days."""
    before, after = ends.snapshots
    generator = torch.Generator().manual_seed(0)
    rows, cols = Exact()(before, after).sample(len(before), generator)
    s = (day - before.time) / (after.time - before.time)
    noise = torch.randn(before.x.shape, generator=generator)
    spread = sigma * ((after.time - before.time) * s * (1 - s)) ** 0.5
    return torch.lerp(before.x[rows], after.x[cols], s) + spread * noise


def fitted(method: FlowMatching, ends: TimeCourse, day: float, **options) -> dict:
    """Cells that one fit predicts for `day`, by solver."""
    fit = method.fit(ends, progress=False, **options)
    seed = options["generator"]
    start = ends.snapshots[0]
    return {s: fit.predict(start, day, solver=s, generator=seed).x for s in SOLVERS}


def choose(days: dict[float, torch.Tensor], steps: int) -> None:
    """Print a sweep over diffusions: every interior time point, 50 components."""
    times = list(days)
    print(f"embryoid bodies, 50 components, {steps} steps, one seed: half the energy distance,")
    print("mean over interior time points, by diffusion as a multiple of the data's own")
    print(f"{'':<16}" + "".join(f"{m:>8}" for m in MULTIPLES))
    table: dict[str, list[float]] = {solver: [] for solver in SOLVERS}
    for multiple in MULTIPLES:
        values: dict[str, list[float]] = {solver: [] for solver in SOLVERS}
        for k in range(1, len(times) - 1):
            first, day, last = (Snapshot(days[t][:, :50], t) for t in times[k - 1 : k + 2])
            ends = TimeCourse((first, last))
            method = SF2M(multiple * natural_sigma(ends))
            for solver, x in fitted(method, ends, day.time, steps=steps, generator=0).items():
                values[solver].append(half_energy(x, day.x))
        for solver in SOLVERS:
            table[solver].append(fmean(values[solver]))
    for solver, row in table.items():
        print(f"{solver:<16}" + "".join(f"{v:>8.3f}" for v in row), flush=True)


def setting(ends: TimeCourse, truth: Snapshot, *, steps: int, seeds: int) -> dict:
    """Scores of one setting: the yardsticks' and those of every seed."""
    day, span = truth.time, ends.times[1] - ends.times[0]
    chosen = CHOSEN * natural_sigma(ends)
    theirs = float(ends.x.std(0).mean()) * (0.1 / span) ** 0.5
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
    halves = truth.x[order].tensor_split(2)
    out = {
        "floor (halves)": [half_energy(*halves)],
        "ot_midpoint": [half_energy(unlearned(ends, day, 0.0), truth.x)],
        "unlearned bridges": [half_energy(unlearned(ends, day, chosen), truth.x)],
    }
    for method in (
        replace(SF2M(chosen), name="sf2m"),
        replace(SF2M(theirs), name="sf2m, lightsb_noise"),
    ):
        for seed in range(seeds):
            cells = fitted(method, ends, day, steps=steps, generator=seed)
            for solver, x in cells.items():
                out.setdefault(f"{method.name}, {solver}", []).append(half_energy(x, truth.x))
    return out


@click.command()
@click.argument("path")
@click.option("--dims", multiple=True, default=(50, 100), type=int)
@click.option("--steps", default=3000)
@click.option("--seeds", default=3)
@click.option("--choose", "choosing", is_flag=True, help="Sweep the diffusion instead.")
@click.option("--json", "target", type=click.Path(dir_okay=False))
def main(path, dims, steps, seeds, choosing, target) -> None:
    torch.set_num_threads(1)
    days, begun = read(path), time.perf_counter()
    if choosing:
        return choose(days, steps)
    print(f"cite, half the unbiased energy distance, {steps} steps, {seeds} seeds")
    stored = {}
    for d in dims:
        scores: dict[str, list[list[float]]] = defaultdict(list)
        for first, last, day in ((2.0, 4.0, 3.0), (3.0, 7.0, 4.0)):
            x = {k: Snapshot(days[k][:, :d], k) for k in (first, last, day)}
            ends = TimeCourse((x[first], x[last]))
            for name, values in setting(ends, x[day], steps=steps, seeds=seeds).items():
                scores[name].append(values)
        report(d, scores)
        stored[d] = scores
    print(f"{time.perf_counter() - begun:.0f} s")
    if target:
        Path(target).write_text(json.dumps(stored, indent=1) + "\n")


def report(dim: int, scores: dict[str, list[list[float]]]) -> None:
    print(f"{f'{dim} components':<38}{'2 -> 4 at 3':>12}{'3 -> 7 at 4':>12}{'mean':>8}{'± se':>8}")
    for name, (a, b) in scores.items():
        means = [fmean(pair) for pair in zip(a, b, strict=True)]
        error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
        print(f"{name:<38}{fmean(a):>12.3f}{fmean(b):>12.3f}{fmean(means):>8.3f}{error:>8.3f}")
    for name, value in PUBLISHED[dim].items():
        print(f"{f'published: {name}':<38}{'':>24}{value:>13}", flush=True)


if __name__ == "__main__":
    main()
