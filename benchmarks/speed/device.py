"""Training on a GPU: cells per second against torchcfm's loop there, and the share of the roofline.

    python benchmarks/speed/device.py --device cuda

Four intervals of 2,048 pairs, 8,192 a step; fifty dimensions, MLP 4 x 512; simulated cells.
torchcfm couples 2,048 cells exactly on the CPU at every step, as its loop does anywhere; beside it
stands its loop without a coupling, the bound of what it could reach with any. Achievable is what
a large product of matrices reaches in this run, in the same precision; the arithmetic of the
network counts as six operations per weight and cell (forward, and twice as much back).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import click
import torch
from timing import Row, interleaved, print_rows, skip_aloud

from cellflow.batches import Batching
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig
from cellflow.timecourse import TimeCourse

sys.path.insert(0, str(Path(__file__).parents[1]))

INTERVALS = 4
FEW, MANY = 2, 1000  # their steps, and ours, in one round


def clouds(cells: int, dims: int, device: str) -> TimeCourse:
    """Normal clouds that drift and turn."""
    generator = torch.Generator().manual_seed(0)
    xs = []
    for k in range(INTERVALS + 1):
        scale = 1 + 0.2 * torch.arange(dims).add(k).sin()
        xs.append(torch.randn(cells, dims, generator=generator) * scale + 0.5 * k)
    return TimeCourse.from_arrays(xs).to(device=device)


def perceptron(dims: int, width: int, depth: int) -> torch.nn.Sequential:
    """torchcfm's network, as deep as asked: time beside the cell, SELU."""
    sizes = [dims + 1, *[width] * depth]
    layers = []
    for a, b in pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.SELU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, dims))


def achievable(device: str, size: int) -> float:
    """Floating-point operations per second of a product of square matrices."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    best = 0.0
    for _ in range(3):
        start = _now(device)
        for _ in range(20):
            a @ b
        best = max(best, 20 * 2 * size**3 / (_now(device) - start))
    return best


def _now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _advance(loop, steps: int, device: str) -> None:
    for _ in range(steps):
        loop.advance()
    _now(device)


def _fit(method, course: TimeCourse, steps: int, device: str) -> None:
    method.fit(course, steps=steps, progress=False)
    _now(device)


def rows(
    device: str,
    *,
    batch: int = 2048,
    dims: int = 50,
    width: int = 512,
    depth: int = 4,
    cells: int = 100_000,
    steps: tuple[int, int] = (MANY, FEW),
) -> Iterator[Row]:
    """Rows on `device`; `steps` are ours and theirs in a round."""
    course = clouds(cells, dims, device)
    net = MLPConfig(width, depth, "selu")
    method = OTCFM(net=net, batching=Batching(batch_size=batch))
    pairs, weights = INTERVALS * batch, width * (dims + 1 + (depth - 1) * width + dims)
    peak = achievable(device, 8192 if device != "cpu" else 1024)
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device
    size = f"{pairs} pairs a step, {dims}-D, MLP {depth} x {width}"
    ours, theirs = steps
    for peer, target in (("otcfm", "≥ 20x"), ("icfm", "")):
        try:
            from peers import Loop
        except ImportError as error:
            skip_aloud("torchcfm", error)
            return
        loop = Loop(course, peer, batch, seed=0, net=perceptron(dims, width, depth))
        t = interleaved(
            partial(_fit, method, course, ours, device),
            partial(_advance, loop, theirs, device),
            rounds=3,
        )
        scale = ours / theirs
        rates = pairs * ours / t.ours, pairs * theirs / t.theirs
        span = t.span[0] * scale, t.span[1] * scale
        note = f"on {name}" + ("; theirs couples nothing" if peer == "icfm" else "")
        yield Row(
            size, f"torchcfm {peer}", *rates, "pairs/s", target, t.ratio * scale, note, span=span
        )
    share = 6 * weights * rates[0] / peak
    note = f"theirs: a product of matrices; on {name}"
    yield Row(
        "arithmetic of that training", "achievable", 6e-12 * weights * rates[0], peak / 1e12,
        "TFLOP/s", "≥ 0.4x", share, note,
    )  # fmt: skip


@click.command()
@click.option("--device", default="cuda")
@click.option("--batch", default=2048, help="Pairs of each of four intervals.")
@click.option("--dims", default=50)
@click.option("--width", default=512)
@click.option("--cells", default=100_000, help="Of each time point.")
@click.option("--steps", nargs=2, type=int, default=(MANY, FEW), help="Ours and theirs, a round.")
def main(device, batch, dims, width, cells, steps) -> None:
    print_rows(rows(device, batch=batch, dims=dims, width=width, cells=cells, steps=steps))


if __name__ == "__main__":
    main()
