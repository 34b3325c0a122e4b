"""Any member of the family between two planar clouds: distance, energy, evaluations, seconds.

    python benchmarks/family/clouds.py
    python benchmarks/family/clouds.py --task moons-8gaussians --method otcfm --method nsf

Every method matches the same training cells with the same seed, at its own defaults, for the same
number of steps; those that go through a common base train two models, so many steps each. Fresh
cells of the source are carried by `cf.match(...).transport`. "W2" is their exact distance from as
many fresh cells of the target ("two samples": between training and fresh cells of the target).
"energy" is `path_energy` over W2 squared of the fresh clouds, about 1 for optimal transport; of
methods through a base it is the mean squared distance between start and end. "asked" counts
evaluations of the network in carrying a cell; "fit" and "carry" are seconds on one thread.

Peers have batches of 128, as their examples, and 3 x 64 units. torchcfm: its own loop and classes,
100 Euler steps. torchebm: its `FlowMatchingLoss`, and its `FlowSampler` of
100 Euler steps. zuko: two of its neural spline flows by Adam, without what ours adds (units,
validation). "torchebm otcfm" is left out by default: its auction takes .4 s a batch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import click
import ot
import torch

import cellflow as cf
from cellflow import TimeCourse
from cellflow.densities import DENSITIES
from cellflow.methods import METHODS
from cellflow.methods.generative import GENERATIVE
from cellflow.methods.match import DirectMatching

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy.planar import cloud, ends
from peers import TorchCFM

TASKS = ("N-8gaussians", "N-moons", "moons-8gaussians")
#: They choose their settings from several days, or their results are not one map of equal cells.
WITHOUT = ("mmfm", "uotcfm", "reach", "ubsb")
NAMES = [n for n in METHODS if n not in WITHOUT]
NAMES += [*GENERATIVE, *(n for n, kind in DENSITIES.items() if kind.invertible)]
CELLS = 2000
Row = tuple[float, float | None, float | None, float, float]


def w2(x: torch.Tensor, y: torch.Tensor) -> float:
    cost = ot.dist(x.double().numpy(), y.double().numpy())
    return float(ot.emd2([], [], cost, numItermax=10**8)) ** 0.5


def ours(name: str, clouds: tuple, *, steps: int, seed: int) -> Row:
    (x0, x1), (fresh, target), best = clouds
    begin = time.perf_counter()
    matching = cf.match(x0, x1, name, steps=steps, generator=seed, progress=False)
    fitted = time.perf_counter()
    moved = matching.transport(fresh)
    carried = time.perf_counter()
    energy = matching.path_energy(fresh) / best**2
    asked = 4 * 32 if isinstance(matching, DirectMatching) else None  # Runge-Kutta, steps of 1/32
    return w2(moved, target), energy, asked, fitted - begin, carried - fitted


def torchcfm(name: str, clouds: tuple, *, steps: int, seed: int) -> Row:
    (x0, x1), (fresh, target), best = clouds
    course = TimeCourse.from_arrays([x0, x1], [0.0, 1.0])
    begin = time.perf_counter()
    fit = TorchCFM(name, shared=False).fit(course, steps=steps, generator=seed)
    fitted = time.perf_counter()
    times = [k / 100 for k in range(101)]
    way = fit.simulate(fresh, times, solver="euler", max_step=0.01)
    carried = time.perf_counter()
    energy = float((way.x.diff(dim=0) * 100).square().sum(-1).mean()) / best**2
    return w2(way.final, target), energy, 100, fitted - begin, carried - fitted


def trained(parameters: Iterable, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
            pair: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int) -> None:  # fmt: skip
    """AdamW on batches of 128 of either cloud."""
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*(x[torch.randint(len(x), (128,), generator=rng)] for x in pair)).backward()
        optimizer.step()


def torchebm(name: str, clouds: tuple, *, steps: int, seed: int) -> Row:
    from torchcfm.models import MLP
    from torchebm.losses import FlowMatchingLoss
    from torchebm.samplers import FlowSampler

    pair, (fresh, target), best = clouds
    torch.manual_seed(seed)
    net = MLP(dim=2, w=64, time_varying=True)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return self.net(torch.cat([x, t.reshape(-1, 1).expand(len(x), 1)], 1))

    model = Model()
    loss = FlowMatchingLoss(model, coupling={"icfm": None, "otcfm": "ot"}[name])
    begin = time.perf_counter()
    trained(net.parameters(), lambda a, b: loss(b, x0=a), pair, steps, seed)
    fitted = time.perf_counter()
    with torch.no_grad():
        way = FlowSampler(model, integrator="euler").sample(
            x=fresh, n_steps=100, return_trajectory=True
        )
    carried = time.perf_counter()
    way = torch.cat([fresh[:, None], way], 1)
    moves = way.diff(dim=1) * (way.shape[1] - 1)
    energy = float(moves.square().sum(-1).mean()) / best**2
    return w2(way[:, -1], target), energy, 100, fitted - begin, carried - fitted


def zuko(name: str, clouds: tuple, *, steps: int, seed: int) -> Row:
    from zuko.flows import NSF

    pair, (fresh, target), best = clouds
    torch.manual_seed(seed)
    flows = [NSF(2, transforms=3, hidden_features=(64, 64)) for _ in pair]
    begin = time.perf_counter()
    for k, flow in enumerate(flows):
        trained(flow.parameters(), lambda x, _, f=flow: -f().log_prob(x).mean(),
                (pair[k], pair[k]), steps, seed)  # fmt: skip
    fitted = time.perf_counter()
    with torch.no_grad():
        moved = flows[1]().transform.inv(flows[0]().transform(fresh))
    carried = time.perf_counter()
    energy = float((moved - fresh).square().sum(1).mean()) / best**2
    return w2(moved, target), energy, None, fitted - begin, carried - fitted


RUNS = {"torchcfm": torchcfm, "torchebm": torchebm, "zuko": zuko}
PEERS = ("torchcfm icfm", "torchcfm otcfm", "torchebm icfm", "zuko nsf")
WIDTHS, DIGITS = (8, 9, 7, 8, 9), (3, 2, 0, 1, 2)


def line(task: str, name: str, columns: Iterable[float | None]) -> str:
    texts = ("-" if c is None else f"{c:.{d}f}" for c, d in zip(columns, DIGITS, strict=False))
    cells = "".join(f"{text:>{w}}" for text, w in zip(texts, WIDTHS, strict=False))
    return f"{task:<18}{name:<18}{cells}"


@click.command()
@click.option("--task", "tasks", multiple=True, default=TASKS)
@click.option("--method", "names", multiple=True, default=(*NAMES, *PEERS))
@click.option("--seeds", default=2)
@click.option("--steps", default=2000)
def main(tasks: tuple[str, ...], names: tuple[str, ...], seeds: int, steps: int) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(f"{CELLS:,} training and {CELLS:,} fresh cells, {steps} steps, {seeds} seeds")
    print(f"{'task':<18}{'method':<18}{'W2':>8}{'energy':>9}{'asked':>7}{'fit s':>8}{'carry s':>9}")
    for task in tasks:
        problems = []
        for seed in range(seeds):
            x0, x1 = (cloud(c, 10 * seed + k) for k, c in enumerate(ends(task)))
            fresh = x0[-CELLS:], x1[-CELLS:]
            problems.append(((x0[:CELLS], x1[:CELLS]), fresh, w2(*fresh)))
        floor = fmean(w2(seen[1], fresh[1]) for seen, fresh, _ in problems)
        print(line(task, "two samples", [floor]), flush=True)
        for name in names:
            peer, _, of = name.rpartition(" ")
            run = RUNS.get(peer, ours)
            try:
                rows = [run(of, c, steps=steps, seed=k) for k, c in enumerate(problems)]
            except ImportError as problem:
                print(f"skipped: {name} ({problem})", file=sys.stderr, flush=True)
                continue
            means = [None if None in c else fmean(c) for c in zip(*rows, strict=True)]
            print(line(task, name, means), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
