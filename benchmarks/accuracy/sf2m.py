"""Held-out W1 of [SF]2M by the OT-CFM paper's protocol, through the ODE and through the SDE.

    python benchmarks/accuracy/sf2m.py cite cite13176_pca100.npz
    python benchmarks/accuracy/sf2m.py cite cite13176_pca100.npz --dims 50
    python benchmarks/accuracy/sf2m.py eb bundled

Protocol, batch size, optimiser and steps are those of `otcfm.py`; one fit serves both solvers.
Five components have the paper's network (3 x 64, SELU), more have 3 x 512, SiLU and a rate of 3e-3,
which training days chose for OT-CFM. The diffusion is given in units of the whitened or raw
components: 0.1 is that of the authors' published module, `default` is ours.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import click
import torch

from cellflow.datasets import embryoid
from cellflow.methods import SF2M, FlowMatching
from cellflow.metrics import split_half_floor, wasserstein1
from cellflow.networks import MLPConfig
from cellflow.pp import course as read_course
from cellflow.timecourse import TimeCourse

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy.protocols import PUBLISHED, paper_course, paper_method, paper_protocol, report
from accuracy.published import load_paper_dataset

#: Tong et al. 2023, [SF]2M: mean and deviation of the exact variant in five components; means of
#: the exact and the geodesic variant in more.
EXACT = {"cite": (0.920, 0.049), "eb": (0.793, 0.066)}
RAW = {50: (40.01, 38.52), 100: (46.53, 44.50)}


def method(kind: str, sigma: str, dims: int) -> FlowMatching:
    """OT-CFM or [SF]2M with a coupling and a diffusion, trained for the whole budget."""
    base = paper_method("otcfm")
    net, training = base.net, replace(base.training, patience=None)
    if dims > 5:
        net = MLPConfig(width=512, activation="silu")
        training = replace(training, learning_rate=3e-3)
    if kind == "otcfm":
        return replace(base, net=net, training=training)
    size = None if sigma == "default" else float(sigma)
    out = SF2M(size, coupling=kind, net=net, training=training, batching=base.batching)
    return replace(out, name=f"sf2m_{kind}, sigma {sigma}")


def floors(course: TimeCourse, dims: int) -> str:
    """Distance between random halves of each interior day."""
    cells = paper_course(course, dims)
    parts = []
    for day, s in list(zip(course.times, cells.snapshots, strict=True))[1:-1]:
        value = float(split_half_floor(s.x, wasserstein1, generator=0, repeats=1))
        parts.append(f"day {day:g} {value:.3f} ({len(s) // 2} cells)")
    return ", ".join(parts)


@click.command()
@click.argument("dataset", type=click.Choice(sorted(EXACT)))
@click.argument("path")
@click.option("--dims", default=5, help="Principal components; 5 are whitened, more are not.")
@click.option("--seeds", default=3)
@click.option("--steps", default=5000)
@click.option("--sigma", "sigmas", multiple=True, default=("0.1", "default"))
@click.option("--kind", "kinds", multiple=True, default=("sinkhorn", "exact", "geodesic"))
@click.option("--otcfm/--no-otcfm", default=True)
@click.option("--sde/--no-sde", default=True)
@click.option("--json", "target", type=click.Path(dir_okay=False))
def main(dataset, path, dims, seeds, steps, sigmas, kinds, otcfm, sde, target) -> None:
    torch.set_num_threads(1)
    if path == "bundled":
        adata, note = embryoid(), "the bundled subset of the embryoid bodies"
    else:
        adata, note = load_paper_dataset(dataset, path)
    course, _ = read_course(adata, time_key="day")
    methods = [method("otcfm", "", dims)] if otcfm else []
    methods += [method(k, s, dims) for s in sigmas for k in kinds]
    start = time.perf_counter()
    solvers = ("rk4", "euler_maruyama") if sde else ("rk4",)
    options = {"n_dims": dims, "seeds": seeds, "steps": steps, "solvers": solvers}
    rows = paper_protocol(course, methods=methods, **options)
    print(f"{dataset}, {dims} components, {steps} steps, {seeds} seeds; {note}")
    published = dict(PUBLISHED[dataset]) if dims == 5 else {}
    for name in dict.fromkeys(row.method for row in rows):
        if dims == 5 and name.startswith("sf2m_exact"):
            published[name] = EXACT[dataset]
        if dims in RAW and dataset == "cite" and name.startswith(("sf2m_exact", "sf2m_geodesic")):
            published[name] = (RAW[dims][name.startswith("sf2m_geodesic")], 0.0)
    print(report(rows, published))
    print(f"floor, random halves: {floors(course, dims)}")
    print(f"{time.perf_counter() - start:.0f} s")
    if target:
        Path(target).write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
