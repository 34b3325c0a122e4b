"""Entropic transport with a known plan: conditional Bures-Wasserstein error in 2 to 128 dimensions.

    python benchmarks/family/mixtures.py
    python benchmarks/family/mixtures.py --dims 2,16 --epsilons 1 --steps 20000

The construction of Gushchin et al. 2023 ("Building the bridge of Schrödinger: a continuous
entropic optimal transport benchmark"), drawn anew: the source is standard normal, and the
potential of the target is a log-sum-exp of five quadratics, so that the plan is

    y | x ~ sum_k p_k(x) N((x/eps + y_k/v_k) s_k, s_k),    1/s_k = 1/eps + 1/v_k,

with p_k(x) proportional to the normal density of x around the centre y_k with variance eps + v_k,
of which the centres are drawn on a sphere of radius 5 and v_k = 1. Their centres are others than
those of the paper, whose figures ("published": the best of its neural solvers) are of like
problems only.

The score is the mean over fresh x of the Bures-Wasserstein distance of the conditional law from
the true one, squared, in per cent of the variance of the target (cBW-UVP). Of samplers it is
estimated from draws, which costs even the exact plan the figure "exact plan, drawn"; the true mean
and covariance are in closed form. "entropic map" is the plan of our solver between training cells,
extended to fresh x by its potentials, without learning.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product

import click
import torch

from cellflow import TimeCourse
from cellflow.methods import SF2M
from cellflow.networks import MLPConfig
from cellflow.toys.exact import matrix_root
from cellflow.training.trainer import Training
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve

DIMS, EPSILONS = (2, 16, 64, 128), (0.1, 1.0, 10.0)
RADIUS, COMPONENTS, VARIANCE = 5.0, 5, 1.0
#: Cells of each side that the entropic map is solved with.
SOLVED = 2000
COLUMNS = ("exact plan, drawn", "cellflow sf2m", "entropic map", "independent plan", "published")
#: The best neural solver of the paper at eps = 1, by dimension.
PUBLISHED = {2: 0.18, 16: 0.63, 64: 4.05, 128: 10.5}


@dataclass(frozen=True)
class Mixture:
    """Plan of a log-sum-exp potential, in float64: `centres` ``(5, d)`` of its quadratics."""

    centres: torch.Tensor
    epsilon: float

    @property
    def spread(self) -> float:
        """Variance of each part of the conditional law."""
        return 1 / (1 / self.epsilon + 1 / VARIANCE)

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights ``(n, 5)`` and means ``(n, 5, d)`` of the law given `x` ``(n, d)``."""
        squared = torch.cdist(x, self.centres).square()
        weights = torch.softmax(-squared / (2 * (self.epsilon + VARIANCE)), 1)
        return weights, self.spread * (x[:, None] / self.epsilon + self.centres / VARIANCE)

    def draw(self, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        weights, means = self.parts(x)
        k = torch.multinomial(weights, 1, generator=rng)[:, 0]
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        return means[torch.arange(len(x)), k] + self.spread**0.5 * noise

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean ``(n, d)`` and covariance ``(n, d, d)`` of the law given `x`."""
        weights, means = self.parts(x)
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        mean, cov = weighted(weights, means)
        return mean, cov + self.spread * eye


def weighted(weights: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of points `y` ``(n, k, d)`` with `weights` ``(n, k)``."""
    mean = (weights[..., None] * y).sum(1)
    off = weights.sqrt()[..., None] * (y - mean[:, None])
    return mean, off.mT @ off


def uvp(found: tuple, exact: tuple, variance: float) -> float:
    """Mean squared Bures-Wasserstein distance between moments, in per cent of `variance`."""
    total = 0.0
    for m, c, mean, cov in zip(*found, *exact, strict=True):
        root = matrix_root(cov)
        cross = torch.linalg.eigvalsh(root @ c @ root).clamp(min=0).sqrt().sum()
        total += float((m - mean).square().sum() + torch.trace(c) + torch.trace(cov) - 2 * cross)
    return 100 * total / len(found[0]) / variance


def entropic_map(x0: torch.Tensor, x1: torch.Tensor, x: torch.Tensor, epsilon: float) -> tuple:
    """Moments of the discrete plan, extended to `x` by the potentials of `x1`."""

    def cost(x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, x1).square() / 2

    even = [Marginal(torch.full((len(z),), 1 / len(z), dtype=z.dtype)) for z in (x0, x1)]
    solution = solve(Problem(cost(x0), Marginals(*even), epsilon), tolerance=1e-2, max_iter=500)
    weights = torch.softmax((solution.g - cost(x)) / epsilon, 1)
    return weighted(weights, x1.expand(len(x), -1, -1))


def run(dim: int, epsilon: float, seed: int, *, cells: int, steps: int, test: int, draws: int,
        width: int) -> tuple[float, ...]:  # fmt: skip
    rng = torch.Generator().manual_seed(1000 * seed + dim)
    normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    centres = normal(COMPONENTS, dim)
    plan = Mixture(RADIUS * centres / centres.norm(dim=1, keepdim=True), epsilon)
    x0, x, again = normal(cells, dim), normal(test, dim), normal(cells, dim)
    x1 = plan.draw(again, rng)  # of other sources: unpaired
    exact, variance = plan.moments(x), float(x1.var(0).sum())
    many = x.repeat_interleave(draws, 0)
    even = torch.full((test, draws), 1 / draws, dtype=x.dtype)

    def of(y: torch.Tensor) -> float:
        return uvp(weighted(even, y.double().view(test, draws, dim)), exact, variance)

    few = min(cells, SOLVED)
    mapped = uvp(entropic_map(x0[:few], x1[:few], x, epsilon), exact, variance)
    course = TimeCourse.from_arrays([x0.float(), x1.float()], [0.0, 1.0])
    method = SF2M(epsilon**0.5, net=MLPConfig(width=width, skip=True),
                  training=Training(validation=0.0))  # fmt: skip
    fit = method.fit(course, steps=steps, generator=seed, progress=False)
    how = {"solver": "sra1", "max_step": 0.02, "generator": seed}
    learned = of(fit.simulate(many.float(), [0.0, 1.0], **how).final)
    independent = of(plan.draw(normal(test * draws, dim), rng))
    return of(plan.draw(many, rng)), learned, mapped, independent


@click.command()
@click.option("--dims", default=",".join(map(str, DIMS)), help="By commas.")
@click.option("--epsilons", default=",".join(map(str, EPSILONS)), help="By commas.")
@click.option("--seeds", default=1)
@click.option("--steps", default=3000)
@click.option("--cells", default=10_000, help="Of training, of each side.")
@click.option("--test", default=100, help="Fresh sources.")
@click.option("--draws", default=300, help="Of each conditional law.")
@click.option("--width", default=128)
def main(dims: str, epsilons: str, seeds: int, **sizes: int) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(f"cBW-UVP, per cent; {sizes}, {seeds} seeds")
    print(f"{'eps':<6}{'d':<6}" + "".join(f"{name:>20}" for name in COLUMNS))
    for epsilon, dim in product(map(float, epsilons.split(",")), map(int, dims.split(","))):
        rows = [run(dim, epsilon, seed, **sizes) for seed in range(seeds)]
        means = [f"{sum(column) / seeds:.3g}" for column in zip(*rows, strict=True)]
        means.append(f"{PUBLISHED[dim]}" if epsilon == 1 and dim in PUBLISHED else "-")
        print(f"{epsilon:<6g}{dim:<6}" + "".join(f"{m:>20}" for m in means), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
