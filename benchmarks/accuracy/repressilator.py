"""Known dynamics: a synthetic clock of three genes, seen at every other time.

    python benchmarks/accuracy/repressilator.py PATH/repressilatormrna.npz

The data (YunyiShen/mmTrajectory-inference-benchmarks) are 11 times of 200 cells of
dy_i = (10 / (1 + y_k^3) - y_i) dt + 0.02 y_i dW_i (Itô), k the repressor of i, each time simulated
anew. Methods see the even times. Scored are W1 at the odd ones, reached from the even time before,
and the error of the drift, ||fitted - true|| / ||true|| over the observed cells. Of methods without
a score the velocity is compared with the drift: it differs by half the noise's own part, some
hundredths. The true score has no closed form: the reference is that of a Gaussian with the moments
of 20,000 cells simulated with the true SDE; how far these are from a Gaussian is printed too.

Even times are about half a turn of the clock apart (its period grows from 3.4 to 4.5), so that
they say neither which way round it goes nor how far out: a method decides that by what it holds
for likely. `shooting` takes the law of least action that does not depend on time.

Settings of `shooting` were chosen on other systems (clocks of other parameters, Lotka-Volterra, van
der Pol, a rotation), with their midpoints known, and on the even times here. The means of all times
and the two unlearned rows had been seen by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import click
import numpy as np
import torch
from torch import Tensor

from cellflow.batches import spline_rates
from cellflow.couplings import Exact
from cellflow.fits import Fit
from cellflow.methods import MMFM, OTCFM, SF2M, Shooting
from cellflow.metrics import wasserstein1
from cellflow.networks import MLPConfig
from cellflow.paths import Pairs, Path, Spline, Straight
from cellflow.timecourse import TimeCourse

NOISE, REPRESSOR, STEP = 0.02, [2, 0, 1], 1e-3


def true_drift(y: Tensor) -> Tensor:
    return 10 / (1 + y[:, REPRESSOR] ** 3) - y


def simulated(times: Sequence[float], n: int, seed: int) -> list[Tensor]:
    """Cells of the true SDE at `times`: Euler-Maruyama with the steps the data were made with."""
    g = torch.Generator().manual_seed(seed)
    start = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    y = start + 0.1 * torch.rand(n, 3, generator=g, dtype=torch.float64)
    out, step = [], 0
    for time in times:
        while step < round(time / STEP):
            noise = torch.randn(n, 3, generator=g, dtype=torch.float64)
            y = y + STEP * true_drift(y) + math.sqrt(STEP) * NOISE * y * noise
            step += 1
        out.append(y)
    return out


def gaussian_score(cells: Tensor) -> Callable[[Tensor], Tensor]:
    mean, precision = cells.mean(0), torch.linalg.inv(torch.cov(cells.T))
    return lambda x: (mean - x.double()) @ precision


def skewness(cells: Tensor) -> float:
    """Largest skewness of a principal component: 0 for a Gaussian."""
    z = cells - cells.mean(0)
    z = z @ torch.linalg.eigh(torch.cov(z.T))[1]
    return float(((z / z.std(0)) ** 3).mean(0).abs().max())


def relative(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """||fitted - true|| / ||true|| over all cells of `pairs` of fitted and true vectors."""
    wrong = sum(float((a - b).square().sum()) for a, b in pairs)
    return math.sqrt(wrong / sum(float(b.square().sum()) for _, b in pairs))


def unlearned(course: TimeCourse, path: Path) -> list[Tensor]:
    """Middles of a path between cells paired by whole-snapshot exact plans."""
    rates = spline_rates(course, Exact()).split([len(s) for s in course.snapshots])
    out = []
    for k, (a, b) in enumerate(course.steps):
        plan = Exact()(a, b)
        time = a.x.new_ones(len(a), 1)
        ends = (a.x[plan.rows], b.x[plan.cols], a.time * time, b.time * time)
        pairs = Pairs(*ends, rate0=rates[k][plan.rows], rate1=rates[k + 1][plan.cols])
        out.append(path.mean(pairs, 0.5 * time))
    return out


def errors(fit: Fit, cells: dict[int, Tensor], reference: dict[int, Tensor]) -> dict[str, float]:
    """Relative errors of drift, and of the score if there is one, at even and at odd times."""
    out = {}
    for parity, times in (("even", range(0, 11, 2)), ("odd", range(1, 11, 2))):
        drift = [
            (fit.dynamics.drift(torch.tensor(float(t)), cells[t]).detach(), true_drift(cells[t]))
            for t in times
        ]
        out[f"drift, {parity}"] = relative(drift)
        if fit.dynamics.score is not None:  # the box at time 0 has none
            score = [
                (fit.score(float(t), cells[t]).double(), gaussian_score(reference[t])(cells[t]))
                for t in times
                if t > 0
            ]
            out[f"score, {parity}"] = relative(score)
    return out


def cell(values: Sequence[float], width: int = 16) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{f'{fmean(values):.3f} ± {error:.3f}':>{width}}"


def line(name: str, values: Sequence[Sequence[float]]) -> str:
    """Mean over times, then each, as mean over seeds ± its standard error."""
    means = [fmean(seed) for seed in zip(*values, strict=True)]
    return f"{name:<22}" + cell(means) + "".join(cell(v) for v in values)


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--seeds", default=3)
@click.option("--steps", default=3000, help="Of the methods that do not simulate.")
@click.option("--shooting-steps", default=1000)
def main(path: str, seeds: int, steps: int, shooting_steps: int) -> None:
    torch.set_num_threads(1)
    with np.load(path) as file:
        cells = {t: torch.tensor(file["X"][file["t"] == t]) for t in range(11)}
    course = TimeCourse.from_arrays([cells[t] for t in range(0, 11, 2)], range(0, 11, 2))
    odd = range(1, 11, 2)
    reference = dict(enumerate(simulated(range(11), 20_000, 0)))
    sigma = NOISE * float(course.x.square().mean().sqrt())
    methods = {
        "otcfm": OTCFM(),
        "otcfm, no time": OTCFM(net=MLPConfig(time=False)),
        "mmfm": MMFM(),
        f"sf2m, sigma {sigma:.3f}": SF2M(sigma, coupling="exact"),
        "shooting, with time": replace(Shooting(), net=MLPConfig()),
        "shooting": Shooting(),
    }
    print(f"W1 at odd times, 200 cells against 200; {seeds} seeds, mean ± standard error")
    print(f"{'':<22}{'mean':>16}" + "".join(f"{f'time {t}':>16}" for t in odd))
    for name, bend in (("midpoint", Straight(0.0)), ("spline", Spline(0.0))):
        middles = unlearned(course, bend)
        scores = [[wasserstein1(m, cells[t])] for m, t in zip(middles, odd, strict=True)]
        print(line(f"{name}, unlearned", scores))
    found: dict[str, list[dict[str, float]]] = {}
    for name, method in methods.items():
        budget = shooting_steps if isinstance(method, Shooting) else steps
        scores, found[name] = [[] for _ in odd], []
        for seed in range(seeds):
            fit = method.fit(course, steps=budget, generator=seed, progress=False)
            for k, t in enumerate(odd):
                end = fit.simulate(cells[t - 1], [t - 1, t]).final
                scores[k].append(wasserstein1(end, cells[t]))
            found[name].append(errors(fit, cells, reference))
        print(line(name, scores), flush=True)
    fresh = [simulated(odd, 200, 1 + seed) for seed in range(seeds)]
    floor = [[wasserstein1(f[k].float(), cells[t]) for f in fresh] for k, t in enumerate(odd)]
    print(line("the true SDE (floor)", floor))
    columns = ("drift, even", "drift, odd", "score, even", "score, odd")
    print(f"\nRelative error\n{'':<22}" + "".join(f"{c:>16}" for c in columns))
    for name, seen in found.items():
        print(f"{name:<22}" + "".join(cell([e[c] for e in seen]) for c in columns if c in seen[0]))
    own = [(gaussian_score(cells[t].double())(cells[t]), gaussian_score(reference[t])(cells[t]))
           for t in range(2, 11, 2)]  # fmt: skip
    print(f"{'Gaussian of the cells':<22}{'':>32}{relative(own):>16.3f}")
    skew = ", ".join(f"{skewness(reference[t]):.2f}" for t in range(2, 11, 2))
    print(f"Largest skewness of the true cells at times 2, 4, …, 10: {skew}")


if __name__ == "__main__":
    main()
