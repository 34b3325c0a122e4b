"""Gaussian Schrödinger bridges against the closed form and the published figures of [SF]2M.

    python benchmarks/accuracy/bridges.py

Tong et al. 2023 ("Simulation-free Schrödinger bridges via score and flow matching"), table of
Gaussian bridges: N(-0.1, I) to N(0.1, I) in d dimensions, σ = 1, 10,000 training cells of each.
10,000 cells are simulated with 20 Euler-Maruyama steps; the score is the Kullback-Leibler
divergence of the normal law fitted to them from the true marginal, in the mean over the 21 times
0, 0.05, …, 1 and at the end. Sources are fresh cells ("fresh"), or the training cells themselves
("seen"), which cost less: whoever carries them onto the training targets pays for one sample.
"""

from __future__ import annotations

import statistics
import time

import click
import torch

from cellflow import TimeCourse, toys
from cellflow.batches import Batching
from cellflow.methods import DSBM, SF2M
from cellflow.networks import MLPConfig
from cellflow.simulate import simulate
from cellflow.training.trainer import Training

DIMS = (2, 5, 20, 50, 100)
SHIFT, SIGMA, CELLS, STEPS = 0.1, 1.0, 10_000, 20
TIMES = [k / STEPS for k in range(STEPS + 1)]
#: Best published in each column, whichever the method: in the mean over times, and at the end.
PUBLISHED = {
    "mean": dict(zip(DIMS, (0.001, 0.004, 0.028, 0.221, 0.792), strict=True)),
    "end": dict(zip(DIMS, (0.002, 0.001, 0.029, 0.122, 0.486), strict=True)),
}


def methods(block: int, rounds: int) -> dict:
    """One configuration for all dimensions, and steps of training."""
    shared = {
        "net": MLPConfig(skip=True),
        "batching": Batching(block_size=block),
        "training": Training(validation=0.0),
    }
    return {"sf2m": SF2M(SIGMA, **shared), "dsbm": DSBM(SIGMA, rounds=rounds, **shared)}


def bridge(d: int) -> toys.GaussianBridge:
    eye = torch.eye(d, dtype=torch.float64)
    ends = [toys.Gaussian(torch.full((d,), s * SHIFT), eye) for s in (-1.0, 1.0)]
    return toys.GaussianBridge(*ends, sigma=SIGMA)


def floor(d: int) -> float:
    """Expected divergence of a sample of the true law: of its mean and covariance, to 1/n."""
    return (d + d * (d + 1) / 2) / (2 * CELLS)


def divergence(x: torch.Tensor, law: toys.Gaussian) -> float:
    """KL of the normal law fitted to `x` from `law`."""
    x = x.double()
    shift = x.mean(0) - law.mean
    ratio = torch.linalg.solve(law.cov, torch.cov(x.T))
    pull = shift @ torch.linalg.solve(law.cov, shift)
    return 0.5 * float(torch.trace(ratio) + pull - law.dim - torch.linalg.slogdet(ratio)[1])


def score(trajectory, exact: toys.GaussianBridge) -> dict[str, float]:
    values = [divergence(x, exact.at(t)) for t, x in zip(TIMES, trajectory.x, strict=True)]
    return {"mean": statistics.fmean(values), "end": values[-1]}


def run(d: int, seed: int, *, steps: dict[str, int], fits: dict) -> dict[str, dict[str, float]]:
    exact = bridge(d)
    rng = torch.Generator().manual_seed(1000 * seed + d)
    source, target, fresh = (
        law.sample(CELLS, generator=rng).float()
        for law in (exact.source, exact.target, exact.source)
    )
    course = TimeCourse.from_arrays([source, target], [0.0, 1.0])
    how = {"solver": "euler_maruyama", "generator": seed + 1, "max_step": 1.0 / STEPS}
    rows = {"exact drift": score(simulate(exact.dynamics(), fresh.double(), TIMES, **how), exact)}
    for name, method in fits.items():
        fit = method.fit(course, steps=steps[name], generator=seed, progress=False)
        rows[f"cellflow {name}, fresh"] = score(fit.simulate(fresh, TIMES, **how), exact)
        rows[f"cellflow {name}, seen"] = score(fit.simulate(source, TIMES, **how), exact)
    return rows


def line(name: str, cells: list[str]) -> str:
    return f"{name:<26}" + "".join(f"{c:<18}" for c in cells).rstrip()


@click.command()
@click.option("--dims", default=",".join(map(str, DIMS)), help="Dimensions, by commas.")
@click.option("--seeds", default=3)
@click.option("--first-seed", default=0)
@click.option("--steps", default=3000, help="Of one pass; the iterated method has twice as many.")
@click.option("--block", default=1024, help="Cells coupled together.")
@click.option("--rounds", default=2, help="Rounds of the iterated method after the first pass.")
@click.option("--method", "names", multiple=True, default=("sf2m", "dsbm"))
def main(dims, seeds, first_seed, steps, block, rounds, names) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    columns = [int(d) for d in dims.split(",")]
    fits = {name: m for name, m in methods(block, rounds).items() if name in names}
    budget = {"sf2m": steps, "dsbm": 2 * steps}
    rows = {d: [] for d in columns}
    for d in columns:
        for seed in range(first_seed, first_seed + seeds):
            rows[d].append(run(d, seed, steps=budget, fits=fits))
            click.echo(f"{d} {seed} {rows[d][-1]}", err=True)
    print(
        f"Gaussian bridges, {CELLS:,} cells, {STEPS} Euler-Maruyama steps, {seeds} seeds (± s.e.)"
    )
    print(f"3 x 64 with skip, blocks of {block}, {steps} steps; dsbm: {rounds} rounds on top")
    for when, title in (("mean", "KL, mean over 21 times"), ("end", "KL at the end")):
        print(line(title, [f"d = {d}" for d in columns]))
        print(line("best published", [f"{PUBLISHED[when][d]:.3f}" for d in columns]))
        print(line("perfect sampler, expected", [f"{floor(d):.4f}" for d in columns]))
        for name in rows[columns[0]][0]:
            print(line(name, [summary([r[name][when] for r in rows[d]]) for d in columns]))
    print(f"{time.perf_counter() - start:.0f} s")


def summary(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
