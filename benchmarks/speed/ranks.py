"""Two ranks on this machine against one process: the same fit, the same global batch.

    python benchmarks/speed/ranks.py [--ranks 2] [--rounds 3]
    python benchmarks/speed/ranks.py --cpu
    torchrun --nproc_per_node=2 benchmarks/speed/ranks.py --cpu

Seconds are those of the training as the history has them, without the start of the processes,
which the note tells. One process may couple on the cores left over, as it does by default. The
last column says how far apart the weights are in the end: the order of sums, nothing else.
With `--cpu` it is the time that the training thread computes, which a busy machine does not
change: what a step would take if messages were never waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import click
import torch
from timing import Row, print_rows

from cellflow.batches import Batching
from cellflow.fits import Fit
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig
from cellflow.several import fit_on, join_process_group
from cellflow.timecourse import TimeCourse
from cellflow.training import FitOptions, Training

#: What, dimensions, pairs an interval, network, refresh, steps.
CASES = (
    ("pooled, 4 x 256, MLP 3 x 64", 5, 256, MLPConfig(64, 3), "pool", 1500),
    ("fresh, 4 x 256, MLP 3 x 64", 5, 256, MLPConfig(64, 3), "every_step", 400),
    ("pooled, 4 x 2048, MLP 3 x 64", 50, 2048, MLPConfig(64, 3), "pool", 300),
    ("pooled, 4 x 2048, MLP 3 x 256", 50, 2048, MLPConfig(256, 3), "pool", 60),
)


def cells(dims: int) -> TimeCourse:
    """Five snapshots of 4,000 cells that drift and spread."""
    g = torch.Generator().manual_seed(0)
    xs = [k + (1 + k / 4) * torch.randn(4000, dims, generator=g) for k in range(5)]
    return TimeCourse.from_arrays(xs)


def weights(fit: Fit) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in fit.networks.parameters()])


def rows(*, ranks: int, rounds: int) -> Iterator[Row]:
    for work, dims, size, net, refresh, steps in CASES:
        course = cells(dims)
        batching = Batching(size, min(size, 256), refresh=refresh)
        method = OTCFM(net=net, batching=batching, training=Training(check_every=500))
        method.fit(course, steps=3, progress=False)  # compiles
        together, alone, starts = [], [], []
        for k in range(rounds):
            one = method.fit(course, steps=steps, generator=k, progress=False)
            start = time.perf_counter()
            options = FitOptions(steps=steps, generator=k, progress=False)
            two = fit_on(method, course, options, devices=ranks)
            starts.append(time.perf_counter() - start - two.history.seconds)
            alone.append(one.history.seconds / steps * 1e3)
            together.append(two.history.seconds / steps * 1e3)
        ratios = [b / a for a, b in zip(together, alone, strict=True)]
        apart = float((weights(one) - weights(two)).abs().max())
        note = f"processes start and end in {median(starts):.1f} s; weights apart by {apart:.0e}"
        yield Row(
            work,
            "one process",
            median(together),
            median(alone),
            "ms/step",
            "",
            median(ratios),
            note,
            span=(min(ratios), max(ratios)),
        )


def cpu() -> None:
    """Print milliseconds a step that the training thread of this rank computes."""
    ranks = join_process_group()
    for work, dims, size, net, refresh, steps in CASES:
        course = cells(dims)
        batching = Batching(size, min(size, 256), refresh=refresh)
        method = OTCFM(net=net, batching=batching, training=Training(check_every=500))
        fit_on(method, course, FitOptions(steps=3, progress=False))  # compiles
        start = time.thread_time()
        fit_on(method, course, FitOptions(steps=steps, progress=False))
        each = (time.thread_time() - start) / steps * 1e3
        told = ranks.gather(each)
        if ranks.is_main:
            print(
                f"{work:<32} {ranks.world} rank(s): {max(told):6.2f} ms/step computed", flush=True
            )


@click.command()
@click.option("--ranks", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cpu", "computed", is_flag=True, help="Time that is computed, not the clock's.")
def main(ranks: int, rounds: int, computed: bool) -> None:
    torch.set_num_threads(1)
    if computed:
        return cpu()
    print_rows(rows(ranks=ranks, rounds=rounds))


if __name__ == "__main__":
    main()
