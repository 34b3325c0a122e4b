"""How the default diffusion was chosen, on time courses that no published figure is about.

    python benchmarks/accuracy/sigma.py FOLDER     # of the .npz files named below

Each interior time point is left out and predicted with diffusions that are multiples of the data's
own (`natural_sigma`). First by the bridges alone, without a network, then by fitted [SF]2M with
Euler-Maruyama. Every line is relative to its least value, which stands first.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from cellflow.evaluate import sigma_sweep
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import natural_sigma

#: Five whitened components, and all dimensions as they are.
FILES = (
    "emt_ae10", "semrau_mesc_ra41", "larry_cospar781_pca40", "beeline_dyn-BF", "beeline_dyn-TF",
)  # fmt: skip
MULTIPLES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
#: Fits take their time: fewer multiples, and of the simulations one, whitened.
LEARNED = (0.1, 0.2, 0.3, 0.5, 0.8)


def read(path: Path, *, whiten: bool) -> TimeCourse:
    with np.load(path, allow_pickle=True) as stored:
        x, t = stored["X"].astype(np.float32), stored["t"]
    if "semrau" in path.stem:
        x = np.log1p(x)  # counts
    times = np.unique(t)
    times = times[::2] if len(times) > 6 else times
    xs = [torch.from_numpy(x[t == k]) for k in times]
    course = TimeCourse.from_arrays(xs, [float(k) for k in times])
    if not whiten:
        return course
    return course.map(fit_preprocessing(course.x, n_components=5, whiten=True).apply)


def report(course: TimeCourse, name: str, multiples: tuple[float, ...], **options) -> None:
    natural = natural_sigma(course)
    sweep = sigma_sweep(course, sigmas=[m * natural for m in multiples], progress=False, **options)
    for metric in ("w1", "energy"):
        curve = np.array(sweep.curve(metric))
        text = "".join(f"{v:>8.3f}" for v in curve / curve.min())
        print(f"{name:<34}{metric:<8}{curve.min():>8.3f}{text}", flush=True)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=1000)
@click.option("--seeds", default=3, help="Of the bridges; 0 leaves them out.")
@click.option("--fit-seed", multiple=True, default=(0,), help="Seeds of the fits.")
@click.option("--multiple", multiple=True, default=LEARNED, help="Diffusions of the fits.")
@click.option("--n-cells", default=300)
def main(
    folder: Path, steps: int, seeds: int, fit_seed: tuple[int], multiple: tuple[float], n_cells: int
) -> None:
    torch.set_num_threads(1)
    for learned, multiples in ((False, MULTIPLES), (True, multiple)):
        if not learned and not seeds:
            continue
        title = f"fitted, {steps} steps" if learned else "bridges alone"
        head = "".join(f"{m:>8}" for m in multiples)
        print(f"{title:<34}{'':<8}{'least':>8}{head}")
        for file in FILES:
            for whiten in (True, False):
                if learned and (file == "beeline_dyn-TF" or not (whiten or file == "emt_ae10")):
                    continue
                course = read(folder / f"{file}.npz", whiten=whiten)
                name = f"{file} {'5 whitened' if whiten else f'{course.dim} raw'}"
                report(
                    course, name, multiples, steps=steps if learned else None,
                    seeds=fit_seed if learned else seeds, n_cells=n_cells,
                )  # fmt: skip
        print()


if __name__ == "__main__":
    main()
