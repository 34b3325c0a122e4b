"""How the defaults were chosen: held-out W1 on time courses that no published figure is about.

    python benchmarks/accuracy/defaults.py FOLDER     # of the .npz files named below

Each setting changes one thing. Five whitened components, index time, 2,000 steps; mean W1 over the
interior time points and seeds, beside the unlearned optimal-transport midpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import click
import numpy as np
import torch

from cellflow.batches import Batching
from cellflow.evaluate import HoldoutProtocol, holdout
from cellflow.methods import OTCFM, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import Training

FILES = ("emt_ae10", "semrau_mesc_ra41", "larry_spring2d", "beeline_dyn-BF")
MOST_CELLS = 3000  # of a time point: exact distances take their time


def read(path: Path) -> TimeCourse:
    with np.load(path) as stored:
        x, t = stored["X"].astype(np.float32), stored["t"]
    if "semrau" in path.stem:
        x = np.log1p(x)  # counts
    times = np.unique(t)
    times = times[::2] if len(times) > 6 else times
    rng = np.random.default_rng(0)
    xs = [torch.from_numpy(x[rng.permutation(np.flatnonzero(t == k))[:MOST_CELLS]]) for k in times]
    course = TimeCourse.from_arrays(xs)
    n = min(5, course.dim)
    return course.map(fit_preprocessing(course.x, n_components=n, whiten=True).apply)


def settings() -> dict[str, FlowMatching]:
    base = OTCFM()

    def net(**changes) -> FlowMatching:
        return replace(base, net=replace(MLPConfig(), **changes))

    def training(**changes) -> FlowMatching:
        return replace(base, training=replace(Training(), **changes))

    def batching(**changes) -> FlowMatching:
        return replace(base, batching=replace(Batching(), **changes))

    return {
        "defaults": base,
        "selu": net(activation="selu"),
        "softplus": net(activation="softplus"),
        "learning rate 2e-3": training(learning_rate=2e-3),
        "learning rate 5e-4": training(learning_rate=5e-4),
        "constant rate": training(schedule="constant", ema=0.0),
        "no averaging": training(ema=0.0),
        "sigma 0.3": OTCFM(0.3),
        "reuse 1": batching(reuse=1),
        "reuse 16": batching(reuse=16),
        "block of 1,024": batching(block_size=1024),
    }


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=2000)
@click.option("--seeds", default=2)
@click.option("--only", multiple=True, help="Settings to run.")
def main(folder: Path, steps: int, seeds: int, only: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    courses = {name: read(folder / f"{name}.npz") for name in FILES}
    print(f"{'':<20}" + "".join(f"{name:>20}" for name in FILES))
    for name, method in settings().items():
        if only and name not in only:
            continue
        line = f"{name:<20}"
        for course in courses.values():
            table = holdout(
                course, method, steps=steps, seeds=seeds, metrics=["w1"], progress=False,
                protocol=HoldoutProtocol(time="index"),
            )  # fmt: skip
            model, midpoint = (
                fmean(fmean(table.values(t, m, "w1")) for t in table.held_out)
                for m in ("otcfm", "ot_midpoint")
            )
            line += f"{f'{model:.3f} ({midpoint:.3f})':>20}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
