"""Models of one cloud of a known density: what each lacks of the truth, in nats a cell.

    python benchmarks/family/likelihoods.py
    python benchmarks/family/likelihoods.py --dim 5 --model nsf --model vp

The cloud is drawn from a mixture of four normal laws with full covariances; 2,000 cells are learned
from and 10,000 fresh ones judge: the mean of the model's log-density less the true one, with the
standard error of that difference (minus the Kullback-Leibler divergence: never above zero but by
chance). Models have their own defaults. zuko: its flows of the same layers by Adam at the same
rate, on whitened cells, without held-back cells or averaged weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import cellflow as cf
from cellflow.densities import DENSITIES
from cellflow.methods import GENERATIVE

KNOWN, FRESH = 2000, 10_000
PEERS = {"zuko nsf": "NSF", "zuko maf": "MAF", "zuko realnvp": "RealNVP"}
SLOW = ("unaf", "iaf")  # named one by one only
NAMES = [name for name in (*DENSITIES, *GENERATIVE) if name not in SLOW]
LogProb = Callable[[torch.Tensor], torch.Tensor]


def mixture(dim: int) -> MixtureSameFamily:
    rng = torch.Generator().manual_seed(dim)
    means = 3 * torch.randn(4, dim, generator=rng)
    roots = 0.5 * torch.randn(4, dim, dim, generator=rng).tril() + 0.3 * torch.eye(dim)
    covs = roots @ roots.mT + 0.05 * torch.eye(dim)
    return MixtureSameFamily(Categorical(torch.ones(4)), MultivariateNormal(means, covs))


def ours(name: str, x: torch.Tensor, steps: int, seed: int) -> LogProb:
    model = (DENSITIES.get(name) or GENERATIVE[name])()
    return model.fit(x, steps=steps, generator=seed).log_prob


def zuko(name: str, x: torch.Tensor, steps: int, seed: int) -> LogProb:
    from zuko import flows

    torch.manual_seed(seed)
    flow = getattr(flows, PEERS[name])(x.shape[1], transforms=3, hidden_features=(64, 64))
    mean, std, rng = x.mean(0), x.std(0), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(steps):
        batch = (x[torch.randint(len(x), (256,), generator=rng)] - mean) / std
        optimizer.zero_grad()
        (-flow().log_prob(batch).mean()).backward()
        optimizer.step()
    return lambda y: flow().log_prob((y - mean) / std) - std.log().sum()


@click.command()
@click.option("--dim", "dims", multiple=True, type=int, default=(2, 5))
@click.option("--model", "names", multiple=True, default=(*NAMES, *PEERS))
@click.option("--seeds", default=2)
@click.option("--steps", default=2000)
def main(dims: tuple[int, ...], names: tuple[str, ...], seeds: int, steps: int) -> None:
    torch.set_num_threads(1)
    print(f"{KNOWN:,} cells, {steps} steps, means of {seeds} seeds; cellflow {cf.__version__}")
    print(f"{'dim':>3}  {'model':<14}{'less truth':>11}{'error':>8}{'fit s':>8}{'judge s':>9}")
    for dim in dims:
        law = mixture(dim)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x, fresh = law.sample((KNOWN,)), law.sample((FRESH,))
        for name in names:
            lacks, spent = [], [0.0, 0.0]
            for seed in range(seeds):
                begin = time.perf_counter()
                log_prob = (zuko if name in PEERS else ours)(name, x, steps, seed)
                fitted = time.perf_counter()
                with torch.no_grad():
                    lacks.append(log_prob(fresh) - law.log_prob(fresh))
                spent[0] += (fitted - begin) / seeds
                spent[1] += (time.perf_counter() - fitted) / seeds
            lack = torch.stack(lacks)
            error = float(lack.mean(0).std() / FRESH**0.5)
            numbers = f"{float(lack.mean()):>11.3f}{error:>8.3f}{spent[0]:>8.1f}{spent[1]:>9.2f}"
            print(f"{dim:>3}  {name:<14}{numbers}", flush=True)


if __name__ == "__main__":
    main()
