"""Training throughput against a torchcfm loop: same cells, network, batch; interleaved medians.

    python benchmarks/speed/training.py PATH [--dims 5] [--threads 1]

Ours is timed over whole fits of `--steps` steps (couplings, validation and all), torchcfm over
`--their-steps` of its own. With one thread everything of ours runs on that thread; with more,
the next couplings are made in the background. `--w1 K` also trains both for `--steps` steps
without the time point at position K and prints the exact W1 of predicting it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

from cellflow.methods import OTCFM
from cellflow.metrics import wasserstein1
from cellflow.nets import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse

sys.path.insert(0, str(Path(__file__).parents[1]))
from peers import Loop, TorchCFM


def read(path: str, dims: int) -> TimeCourse:
    with np.load(path) as stored:
        x, t = stored["X"][:, :dims], stored["t"]
    xs = [torch.from_numpy(np.ascontiguousarray(x[t == k])) for k in np.unique(t)]
    course = TimeCourse.from_arrays(xs)
    if dims > 5:
        return course
    return course.map(fit_preprocessing(course.x, whiten=True).apply)


@click.command()
@click.argument("path", type=click.Path(exists=True))
@click.option("--dims", default=5)
@click.option("--threads", default=1)
@click.option("--steps", default=3000)
@click.option("--their-steps", default=100)
@click.option("--batch-size", default=256)
@click.option("--rounds", default=5)
@click.option("--w1", "held", type=int, help="Position of a time point to hold out and score.")
@click.option("--seeds", default=3, help="Seeds of the scored fits.")
def main(path, dims, threads, steps, their_steps, batch_size, rounds, held, seeds) -> None:
    torch.set_num_threads(threads)
    course = read(path, dims)
    method = OTCFM(net=MLPConfig(64, 3, "selu"))
    sizes = {"batch_size": batch_size, "prefetch": threads > 1}
    method = replace(method, batching=replace(method.batching, **sizes))
    loop = Loop(course, "otcfm", batch_size, seed=0)
    method.fit(course, steps=20, progress=False)  # compiles the assignment kernel
    for _ in range(5):
        loop.advance()
    ours, theirs, ratios = [], [], []
    for k in range(rounds):
        start = time.perf_counter()
        for _ in range(their_steps):
            loop.advance()
        theirs.append((time.perf_counter() - start) / their_steps * 1e3)
        start = time.perf_counter()
        fit = method.fit(course, steps=steps, generator=k, progress=False)
        ours.append((time.perf_counter() - start) / steps * 1e3)
        ratios.append(theirs[-1] / ours[-1])
    share = fit.history.coupling["seconds"] / fit.history.seconds
    print(
        f"{Path(path).stem}, {dims}-D, {len(course) - 1} x {batch_size} pairs, {threads} thread(s)"
    )
    print(f"torchcfm  {median(theirs):7.2f} ms/step   (of {min(theirs):.2f} to {max(theirs):.2f})")
    print(f"cellflow  {median(ours):7.2f} ms/step   (of {min(ours):.2f} to {max(ours):.2f})")
    print(f"ratio     {median(ratios):7.1f}           (of {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"coupling took {share:.0%} of our time, worked on {fit.history.coupling['plans']} plans")
    if held is not None:
        score(course, method, held, steps=steps, seeds=seeds)


def score(course: TimeCourse, method, held: int, *, steps: int, seeds: int) -> None:
    """Print the held-out W1 of both at an equal number of steps."""
    start, truth = course.snapshots[held - 1], course.snapshots[held].x
    peer = TorchCFM("otcfm", method.batching.batch_size)
    for name, m in (("torchcfm", peer), ("cellflow", method)):
        values = []
        for seed in range(seeds):
            fit = m.fit(course.without(held), steps=steps, generator=seed, progress=False)
            end = fit.simulate(start.x, [start.time, course.times[held]]).final
            values.append(wasserstein1(end, truth))
        print(f"{name:<9} W1 {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} ({seeds} seeds)")


if __name__ == "__main__":
    main()
