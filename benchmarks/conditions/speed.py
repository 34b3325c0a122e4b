r"""Speed and memory of conditions: a step of training, predictions, and theislab's CellFlow.

\b
    python benchmarks/conditions/speed.py --peer PYTHON

Normal cells in 50 dimensions, moved by a drug each. Training is timed, in 5 dimensions too, on five
days of cells under ten drugs against the loop of torchcfm on the same cells without conditions, its
network of 3 x 64 as ours: 4 intervals of 256 pairs, in turn, medians, one thread. Predictions are
those of 20 drugs.
Peak memory is that of a process of its own, which trains on 100,000 cells under more and more
drugs. The peer is theislab's CellFlow, run by its own Python on a control and twenty drugs (see
peer.py); its predictions take minutes, so that both predict 200 cells of each drug.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch

FOLDER = Path(__file__).parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER / "speed")]

from timing import Row, in_subprocess, interleaved, print_rows, skip_aloud  # noqa: E402

from cellflow import OTCFM, Fit, TimeCourse  # noqa: E402
from cellflow.batches import Batching  # noqa: E402
from cellflow.conditions import Categorical, Conditions  # noqa: E402
from cellflow.networks import MLPConfig  # noqa: E402
from peers import Loop  # noqa: E402 - beside this folder

DIM, BATCH, DRUGS, STEPS, THEIR_STEPS = 50, 256, 20, 1000, 50


def course(days: int, drugs: int, cells: int, *, seed: int = 0, dim: int = DIM) -> TimeCourse:
    """So many `cells` a day, shared by as many drugs as there are, one of them the control."""
    rng = torch.Generator().manual_seed(seed)
    names = tuple(f"drug{k}" for k in range(drugs))
    known = Conditions((Categorical("drug", names),), tuple({"drug": n} for n in names), control=0)
    codes = torch.arange(cells) % drugs
    effect = torch.randn(drugs, dim, generator=rng)
    xs = [torch.randn(cells, dim, generator=rng) + day * effect[codes] for day in range(days)]
    return TimeCourse.from_arrays(xs, conditions=known, codes=[codes] * days)


def method(condition: str = "concat", batch: int = BATCH) -> OTCFM:
    batching = Batching(batch, batch, prefetch=False)
    return OTCFM(net=MLPConfig(condition=condition), batching=batching)


def training(rounds: int, dim: int) -> Iterator[Row]:
    """Seconds a step in `dim` dimensions, of ours and of torchcfm's loop."""
    told = course(5, 10, 10_000, dim=dim)
    bare = TimeCourse.from_arrays([s.x for s in told.snapshots])
    loop = Loop(bare, "otcfm", BATCH, seed=0)
    for name, cells in (("none", bare), ("concat", told), ("film", told)):
        own = method("concat" if name == "none" else name)
        own.fit(cells, steps=20, progress=False)  # compiles the kernel of assignment

        def ours(own=own, cells=cells) -> None:
            own.fit(cells, steps=STEPS, progress=False)

        def theirs() -> None:
            for _ in range(THEIR_STEPS):
                loop.advance()

        t, scale = interleaved(ours, theirs, rounds=rounds, warmup=0), STEPS / THEIR_STEPS
        yield Row(
            f"training step, 4 x {BATCH}, {dim}-D, conditions: {name}",
            "torchcfm loop",
            t.ours / STEPS * 1e3,
            t.theirs / THEIR_STEPS * 1e3,
            "ms",
            "≥ 10x",
            t.ratio * scale,
            f"{STEPS} steps a fit",
            span=(t.span[0] * scale, t.span[1] * scale),
        )


def predict(fit: Fit, cells: int) -> float:
    """Seconds of predicting so many cells under each of the drugs, in float32."""
    known, rng = fit.course.conditions, torch.Generator().manual_seed(1)
    x = torch.randn(cells, DIM, generator=rng)
    begin = time.perf_counter()
    for value in known.values:
        fit.given(value).simulate(x, fit.course.times)
    return time.perf_counter() - begin


def predictions() -> Iterator[Row]:
    cells = course(2, DRUGS, 4000)
    for name in ("concat", "film"):
        fit = method(name).fit(cells, steps=300, progress=False)
        took = sorted(predict(fit, 5000) for _ in range(3))[1]
        work = f"predict {DRUGS} conditions x 5,000 cells, {name}"
        yield Row(work, "-", took, None, "s", "≤ 5 s", None, "one thread")


def train_many(drugs: int) -> float:
    """Seconds of training on 100,000 cells under so many drugs."""
    torch.set_num_threads(1)
    cells = course(2, drugs, 50_000)
    begin = time.perf_counter()
    method().fit(cells, steps=300, progress=False)
    return time.perf_counter() - begin


def memory() -> Iterator[Row]:
    for drugs in (1, 5, 50, 500):
        took, peak = in_subprocess(train_many, drugs)
        work = f"300 steps on 100,000 cells, {drugs} conditions"
        yield Row(work, "-", took, None, "s", "", None, peak_mb=peak)


def peer(python: str) -> Iterator[Row]:
    """Theislab's CellFlow and ours: a control and as many drugs, one interval."""
    cells = course(2, DRUGS + 1, 200 * (DRUGS + 1))
    start, end = cells.snapshots
    x1 = np.stack([end.x[end.condition == k] for k in range(1, DRUGS + 1)])
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/cells.npz", x0=start.x[start.condition == 0], x1=x1)
        command = [python, str(Path(__file__).with_name("peer.py")), "cells.npz", "--steps", "300"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder}  # not the path to our package
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    theirs = json.loads(done.stdout.splitlines()[-1])
    begin = time.perf_counter()
    fit = method("concat").fit(cells, steps=STEPS, progress=False)
    step = (time.perf_counter() - begin) / STEPS * 1e3
    note = f"theirs {theirs['parameters']} weights, ours {sum(p.numel() for p in weights(fit))}"
    against, them = "theislab's CellFlow", theirs["step"] * 1e3
    yield Row(f"training step, {BATCH} pairs", against, step, them, "ms", "", them / step, note)
    ours, them = predict(fit, 200), theirs["predict"]
    work, note = (
        f"predict {DRUGS} conditions x 200 cells",
        f"theirs at first {theirs['first']:.0f} s",
    )
    yield Row(work, against, ours, them, "s", "", them / ours, note)


def weights(fit: Fit) -> Iterator[torch.Tensor]:
    return fit.networks.parameters()


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Of interleaved timing.")
@click.option("--peer", "python", help="Python that theislab's CellFlow is installed for.")
def main(rounds: int, python: str | None) -> None:
    torch.set_num_threads(1)
    for topic in (training(rounds, 5), training(rounds, DIM), predictions(), memory()):
        print_rows(topic)
    try:
        if python is not None:
            print_rows(peer(python))
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        skip_aloud("theislab's CellFlow", error)


if __name__ == "__main__":
    main()
