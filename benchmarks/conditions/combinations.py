r"""Pairs of drugs that no cell saw, predicted from the control and from what drugs do alone.

\b
    python benchmarks/conditions/combinations.py --seconds 2 --seeds 3

Two problems with known truth, each of a control, four drugs and their six pairs, 300 cells a
condition and time. Normal laws in ten dimensions, whose means drugs shift: what pairs do is the sum
of what drugs do. A switch of two genes, seen at three times, where it is not. Three pairs are left
out, one at a time. Each network is trained for as many steps as fit into the seconds, by the time
of its own thread. Energy distance and W1 to the cells left out, the share explained of the mean
changes, and the rank of the right condition; with guidance where the name says so.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations, pairwise
from statistics import median

import click
import torch

from cellflow import OTCFM, TimeCourse
from cellflow.evaluate import HoldoutTable, holdout_conditions
from cellflow.methods import Method
from cellflow.networks import MLPConfig, MMDiTConfig, ResidualConfig
from cellflow.toys import TOGGLE, DosedGaussians, Gaussian
from cellflow.training import Training

CELLS, DRUGS, LEFT_OUT = 300, "ABCD", ("A+B", "A+C", "B+D")
#: Network, learning rate, guidance.
NETWORKS = {
    "concat": (MLPConfig(), 1e-3, 1.0),
    "concat, guidance 1.5": (MLPConfig(), 1e-3, 1.5),
    "film": (MLPConfig(condition="film"), 1e-3, 1.0),
    "film, guidance 1.5": (MLPConfig(condition="film"), 1e-3, 1.5),
    "residual": (ResidualConfig(), 3e-3, 1.0),
    "mmdit": (MMDiTConfig(), 3e-3, 1.0),
}


def dose(pair: str) -> dict[str, float]:
    return dict.fromkeys(pair.split("+"), 1.0)


def problems() -> dict[str, TimeCourse]:
    rng = torch.Generator().manual_seed(0)
    start, end = (torch.randn(10, generator=rng).double() for _ in range(2))
    effects = {name: 2 * torch.randn(10, generator=rng) for name in DRUGS}
    root = torch.randn(10, 10, generator=rng).double() / 10**0.5
    laws = Gaussian(start, torch.eye(10).double()), Gaussian(end, root @ root.T)
    seen = [*map(dose, DRUGS), *(dose("+".join(pair)) for pair in combinations(DRUGS, 2))]
    normal = DosedGaussians(*laws, effects).course(CELLS, seen, generator=1)
    return {"normal": normal, "switch": TOGGLE.course(CELLS, [1, 2, 4], seen, generator=1)}


def affordable(method: Method, course: TimeCourse, seconds: float) -> int:
    """Steps of training that fit into so many seconds."""
    times: list[float] = []
    method.fit(course, steps=60, progress=False, on_step=lambda _: times.append(time.thread_time()))
    return int(seconds / median(b - a for a, b in pairwise(times[20:])))


@click.command(help=__doc__)
@click.option("--seconds", default=2.0, show_default=True, help="Of training, for each fit.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--problem", "names", type=click.Choice(["normal", "switch"]), multiple=True)
def main(seconds: float, seeds: int, names: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for problem, course in problems().items():
        if names and problem not in names:
            continue
        rows, said = {}, []
        for name, (net, rate, guidance) in NETWORKS.items():
            method = replace(OTCFM(net=net, training=Training(rate)), name=name)
            steps = affordable(method, course, seconds)
            said.append(f"{name}: {steps}")
            table = holdout_conditions(
                course,
                method,
                conditions=[{"drug": dose(pair)} for pair in LEFT_OUT],
                steps=steps,
                seeds=seeds,
                metrics=("energy", "w1"),
                guidance=guidance,
                workers=1,
                progress=False,
            )
            rows |= {(r.held_out, r.method, r.seed, r.metric): r for r in table.rows}
        print(f"{problem}, {course.dim} dimensions, {seeds} seeds; steps of " + ", ".join(said))
        lines = str(HoldoutTable(tuple(rows.values()), "condition")).splitlines()
        print("\n".join(x for x in lines if " against " not in x or "additive" in x), flush=True)
        print()


if __name__ == "__main__":
    main()
