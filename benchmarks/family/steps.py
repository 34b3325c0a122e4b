"""Quality against the number of steps: straightened, distilled and averaged flows.

    python benchmarks/family/steps.py

From eight gaussians to moons (Tong et al. 2024, OT-CFM, section 6), 2,000 cells each; the flows
carry 2,000 fresh cells, which are scored against 2,000 fresh cells of the target by W2 and energy
distance. "Two samples" are the same scores of other cells of the target. Flows take so many steps
of Euler's, the last column 100; distilled ones and the mean flow take theirs. Every round of reflow
has the budget of a first fit, and so has every distillation, of the flow above it.
Energy is that of the whole way, beside W2² of the fresh cells.
"""

from __future__ import annotations

import statistics
import time

import click
import torch

from cellflow import ICFM, OTCFM, Fit, MeanFlow, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.methods import FewSteps, Iterated, distill
from cellflow.metrics import energy_distance, wasserstein2
from cellflow.networks import MLPConfig
from cellflow.simulate import path_energy
from cellflow.training.trainer import Training

CELLS, FEW, MANY = 2000, (1, 2, 4), 100
SHARED = {
    "net": MLPConfig(width=128),
    "batching": Batching(256, 256),
    "training": Training(learning_rate=3e-3, validation=0.0),
}
#: Scores by number of steps, and the energy of the way.
Row = dict[str, float]


def clouds(seed: int) -> list[torch.Tensor]:
    """Training cells of source and target, fresh cells of both, other cells of the target."""
    makers = (toys.eight_gaussians, toys.moons, toys.eight_gaussians, toys.moons, toys.moons)
    return [make(CELLS, generator=10 * seed + k) for k, make in enumerate(makers)]


def scores(found: torch.Tensor, target: torch.Tensor, steps: object) -> Row:
    return {
        f"W2 {steps}": wasserstein2(found, target),
        f"E {steps}": energy_distance(found, target),
    }


def flow(fit: Fit, x: torch.Tensor, y: torch.Tensor) -> Row:
    row = {"energy": path_energy(fit, x, t0=0.0, t1=1.0)}
    for steps in (*FEW, MANY):
        row |= scores(FewSteps(fit, steps).transport(x), y, steps)
    return row


def distilled(fit: Fit, x: torch.Tensor, y: torch.Tensor, budget: int) -> Row:
    row: Row = {}
    for steps in FEW:
        student = distill(fit, steps=steps, budget=budget, progress=False)
        row |= scores(student.transport(x), y, steps)
    return row


def run(seed: int, budget: int) -> dict[str, Row]:
    *train, x, y, other = clouds(seed)
    course = TimeCourse.from_arrays(train)
    options = {"generator": seed, "progress": False}
    rows = {"two samples": scores(other, y, MANY) | {"energy": wasserstein2(x, y) ** 2}}
    for name, method in (("otcfm", OTCFM(0.02, **SHARED)), ("icfm", ICFM(0.0, **SHARED))):
        fit = method.fit(course, steps=budget, **options)
        rows[name if name == "otcfm" else "icfm, reflow 0"] = flow(fit, x, y)
        rows[f"{name}, distilled"] = distilled(fit, x, y, budget)
    for rounds in (1, 2):
        method = Iterated(ICFM(0.0, **SHARED), rounds, 1 / (rounds + 1), name="rectified_flow")
        fit = method.fit(course, steps=(rounds + 1) * budget, **options)
        rows[f"reflow {rounds}"] = flow(fit, x, y)
        rows[f"reflow {rounds}, distilled"] = distilled(fit, x, y, budget)
    fit = MeanFlow(0.02, **SHARED).fit(course, steps=budget, **options)
    many = fit.simulate(x, [0.0, 1.0], solver="euler", max_step=1 / MANY).final
    rows["mean_flow"] = flow(fit, x, y) | scores(many, y, MANY)
    return rows


def mean(rows: list[Row], column: str) -> str:
    values = [row[column] for row in rows if column in row]
    return f"{statistics.fmean(values):.3f}" if values else "-"


@click.command()
@click.option("--seeds", default=2)
@click.option("--budget", default=2000)
def main(seeds: int, budget: int) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    tables = [run(seed, budget) for seed in range(seeds)]
    columns = [f"{score} {k}" for score in ("W2", "E") for k in (*FEW, MANY)] + ["energy"]
    print(f"8 gaussians -> moons, {CELLS:,} cells, {budget} steps a fit, means of {seeds} seeds")
    print(f"{'steps':<22}" + "".join(f"{c:>8}" for c in columns))
    for name in tables[0]:
        cells = "".join(f"{mean([t[name] for t in tables], c):>8}" for c in columns)
        print(f"{name:<22}" + cells)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
