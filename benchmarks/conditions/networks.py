r"""Networks at equal time: held-out days of simulated courses that no published figure is about.

\b
    python benchmarks/conditions/networks.py --dims 2,5,20,50 --seconds 4

Cells of a population that turns and branches, seen as a smooth map of its three coordinates in
`dims` dimensions whose spread falls like that of principal components, with noise. Of seven days
three are left out together; W1 of 500 cells carried there from the day before, mean over days and
seeds, beside the unlearned midpoint of the neighbouring days and the floor, two halves of the day.
Each network has as many steps as fit into the seconds, by the time of its own thread; beside W1 is
its loss on cells held back, which says how well it does what it is asked.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from statistics import fmean, median

import click
import torch

from cellflow import OTCFM, TimeCourse
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.metrics import wasserstein1
from cellflow.networks import DiTConfig, MLPConfig, MMDiTConfig, ResidualConfig
from cellflow.training import Training

#: Network, learning rate and size of coupled blocks.
NETWORKS = {
    "mlp 3 x 64": (MLPConfig(), 1e-3, 256),
    "mlp 3 x 128": (MLPConfig(128), 1e-3, 256),
    "mlp 3 x 256": (MLPConfig(256), 1e-3, 256),
    "mlp 3 x 512": (MLPConfig(512), 1e-3, 256),
    "mlp 3 x 128, fast": (MLPConfig(128), 3e-3, 256),
    "mlp 3 x 128, large": (MLPConfig(128), 1e-3, 1000),
    "residual 3 x 64": (ResidualConfig(), 3e-3, 256),
    "dit 2 x 32": (DiTConfig(), 3e-3, 256),
    "mmdit 1+1 x 32": (MMDiTConfig(), 3e-3, 256),
}
DAYS, CELLS, SCORED = 7, 1000, 500


def simulated(dim: int, seed: int) -> TimeCourse:
    """Cells of seven days: they turn as they go on, and part from the third day."""
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g)
    first, second = draw(3, 24), draw(24, dim) / 24**0.5
    spread = torch.arange(1, dim + 1) ** -0.5
    xs = []
    for day in range(DAYS):
        s = day / (DAYS - 1) + 0.06 * draw(CELLS)
        side = (torch.rand(CELLS, generator=g) < 0.4) * 2.0 - 1
        apart = side * torch.sigmoid(10 * (s - 0.5))
        z = torch.stack([3 * s - 1.5, apart, torch.sin(5 * s)], 1) + 0.15 * draw(CELLS, 3)
        x = 4 * torch.tanh(0.5 * z @ first) @ second if dim > 3 else 2 * z[:, :dim]
        xs.append((x + 0.3 * draw(CELLS, dim)) * spread)
    return TimeCourse.from_arrays(xs)


def seconds_per_step(method, course: TimeCourse) -> float:
    """What a step of training takes the thread that does it."""
    times: list[float] = []
    method.fit(course, steps=60, progress=False, on_step=lambda _: times.append(time.thread_time()))
    return median(b - a for a, b in pairwise(times[20:]))


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return wasserstein1(x[:SCORED], y[:SCORED])


def unlearned(course: TimeCourse) -> tuple[float, float]:
    """W1 of the midpoint of the neighbouring days, and between halves of the day itself."""
    middle, floor = [], []
    for k in range(1, DAYS, 2):
        before, day, after = course.snapshots[k - 1 : k + 2]
        rows, cols = Exact()(before, after).sample(SCORED, generator=0)
        middle.append(distance((before.x[rows] + after.x[cols]) / 2, day.x))
        floor.append(distance(day.x[:SCORED], day.x[SCORED:]))
    return fmean(middle), fmean(floor)


@click.command()
@click.option("--dims", default="2,5,20,50", show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of training, for each fit.")
@click.option("--seeds", default=2, show_default=True)
def main(dims: str, seconds: float, seeds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"W1 to days left out; {seconds:g} s of training, {seeds} courses")
    named = ("rate", "block", "steps", "loss", "W1")
    print(f"{'dims':>4}  {'network':20}" + "".join(f"{name:>8}" for name in named), flush=True)
    for dim in map(int, dims.split(",")):
        courses = [simulated(dim, seed) for seed in range(seeds)]
        for name, value in zip(("midpoint", "floor"), zip(*map(unlearned, courses)), strict=True):
            print(f"{dim:4}  {name:20}{'':32}{fmean(value):8.3f}", flush=True)
        seen = [
            TimeCourse.from_arrays([s.x for s in c.snapshots[::2]], times=c.times[::2])
            for c in courses
        ]
        for name, (net, rate, block) in NETWORKS.items():
            method = OTCFM(net=net, training=Training(rate), batching=Batching(block_size=block))
            steps = int(seconds / seconds_per_step(method, seen[0]))
            losses, errors = [], []
            for seed, course in enumerate(courses):
                fit = method.fit(seen[seed], steps=steps, generator=seed, progress=False)
                losses.append(fit.history.validation_loss[-1])
                for k in range(1, DAYS, 2):
                    before, day = course.snapshots[k - 1 : k + 1]
                    x = fit.simulate(before.x[:SCORED], [before.time, day.time]).final
                    errors.append(distance(x, day.x))
            row = f"{rate:8g}{block:8}{steps:8}{fmean(losses):8.3f}{fmean(errors):8.3f}"
            print(f"{dim:4}  {name:20}{row}", flush=True)


if __name__ == "__main__":
    main()
