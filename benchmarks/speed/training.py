"""Training against the torchcfm loop: same cells, batch and size of network; interleaved medians.

    python benchmarks/speed/training.py FOLDER            # of eb_sub2750_pca100.npz
    python benchmarks/speed/training.py FOLDER --w1 2     # and held-out W1 at equal steps

Ours is timed over whole fits of 3,000 steps: ordering and splitting the cells, couplings,
validation and all. torchcfm is timed over steps of its own, from cells that are already drawn.
Both compute on one thread, 4 intervals of 256 pairs, a network of 3 x 64 (ours with its default
activation, torchcfm's with its own). "pooled" has our default coupling law, in which pairs are met
several times; "fresh" couples anew for every step, as torchcfm does. With prefetch the couplings
are made by a second thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from timing import Row, interleaved, print_rows

from cellflow.batches import Batching
from cellflow.methods import OTCFM
from cellflow.metrics import wasserstein1
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import TimeCourse

sys.path.insert(0, str(Path(__file__).parents[1]))

DATA = "eb_sub2750_pca100.npz"
BATCH, STEPS = 256, 3000
#: Law, dimensions, settings, target.
CASES = (
    ("pooled", 5, {"prefetch": False}, "≥ 12x"),
    ("pooled", 50, {"prefetch": False}, "≥ 9x"),
    ("fresh", 5, {"prefetch": False, "refresh": "every_step"}, "≥ 3.5x"),
    ("fresh, prefetched", 5, {"prefetch": True, "refresh": "every_step"}, "≥ 5x"),
)


def read(path: str | Path, dims: int) -> TimeCourse:
    """The first components of a data set, five of them whitened, as in the papers."""
    with np.load(path) as stored:
        x, t = stored["X"][:, :dims], stored["t"]
    xs = [torch.from_numpy(np.ascontiguousarray(x[t == k])) for k in np.unique(t)]
    course = TimeCourse.from_arrays(xs)
    if dims > 5:
        return course
    return course.map(fit_preprocessing(course.x, whiten=True).apply)


def rows(data: Path, *, quick: bool = True) -> Iterator[Row]:
    """Seconds a step, of ours and of the loop."""
    from peers import Loop

    rounds, fits = (3, STEPS) if quick else (7, STEPS)
    for law, dims, settings, target in CASES:
        course = read(Path(data) / DATA, dims)
        method = OTCFM(batching=Batching(BATCH, BATCH, **settings))
        loop = Loop(course, "otcfm", BATCH, seed=0)
        ours_steps = fits if law == "pooled" else fits // 5
        their_steps = 60 if quick else 150
        method.fit(course, steps=20, progress=False)  # compiles the kernel of assignment
        found = []

        def ours(method=method, course=course, steps=ours_steps, found=found) -> None:
            found.append(method.fit(course, steps=steps, generator=len(found), progress=False))

        def theirs(loop=loop, steps=their_steps) -> None:
            for _ in range(steps):
                loop.advance()

        timing = interleaved(ours, theirs, rounds=rounds, warmup=0)
        scale = ours_steps / their_steps
        spent = found[-1].history
        shares = ", ".join(f"{k} {v / spent.seconds:.0%}" for k, v in spent.timing.items())
        yield Row(
            f"training step, 4 x {BATCH}, {dims}-D, {law}",
            "torchcfm loop",
            timing.ours / ours_steps * 1e3,
            timing.theirs / their_steps * 1e3,
            "ms",
            target,
            timing.ratio * scale,
            f"{ours_steps} steps a fit; {shares}",
            span=(timing.span[0] * scale, timing.span[1] * scale),
        )


def score(data: Path, held: int, *, steps: int, seeds: int) -> Iterator[Row]:
    """Held-out W1 of both after as many steps: the time point at position `held`."""
    from peers import TorchCFM

    def ends(method, course: TimeCourse) -> list[float]:
        start, truth = course.snapshots[held - 1], course.snapshots[held]
        out = []
        for seed in range(seeds):
            fit = method.fit(course.without(held), steps=steps, generator=seed, progress=False)
            end = fit.simulate(start.x, [start.time, truth.time]).final
            out.append(wasserstein1(end, truth.x))
        return out

    peers: dict[int, list[float]] = {}
    for law, dims, settings, _ in CASES[:3]:
        course = read(Path(data) / DATA, dims)
        theirs = peers.setdefault(dims, []) or ends(TorchCFM("otcfm", BATCH), course)
        peers[dims] = theirs
        ours = ends(OTCFM(batching=Batching(BATCH, BATCH, **settings)), course)
        bars = ", ".join(f"± {np.std(values, ddof=1):.3f}" for values in (ours, theirs))
        yield Row(
            f"held-out W1, {dims}-D, {law}, {steps} steps",
            "torchcfm loop",
            float(np.mean(ours)),
            float(np.mean(theirs)),
            "",
            "≥ 1x",
            float(np.mean(theirs) / np.mean(ours)),
            f"{seeds} seeds: {bars}",
        )


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--w1", "held", type=int, help="Position of a time point to hold out and score.")
@click.option("--steps", default=STEPS, help="Of the scored fits.")
@click.option("--seeds", default=3, help="Of the scored fits.")
def main(data: Path, held: int | None, steps: int, seeds: int) -> None:
    torch.set_num_threads(1)
    if held is not None:
        print_rows(score(data, held, steps=steps, seeds=seeds))
        return
    print_rows(rows(data, quick=False))


if __name__ == "__main__":
    main()
