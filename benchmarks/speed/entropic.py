"""Entropic plans against POT and ott-jax: blocks of 256 cells, and thousands by thousands.

    python benchmarks/speed/entropic.py FOLDER             # more blocks, smaller diffusions
    python benchmarks/speed/entropic.py FOLDER --quick     # what the table runs

Blocks are those that [SF]2M couples: cells of consecutive days of CITE-seq in 5 whitened and in
50 principal components, diffusion 0.2 times the data's own. All solvers are asked for an L1 error
of the marginals of 1e-6 in float64 on one thread, and run in turn. POT's log-domain Sinkhorn has
the L2 error that is its stopping rule set to match, and stops at a number of sweeps that keeps the
table short: where the note gives its error, it had not arrived. Seconds are of wall time, by block.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import ot
import torch
from timing import Row, in_subprocess, interleaved, print_rows, skip_aloud

from cellflow.costs import half_squared_distance
from cellflow.couplings import Entropic, Unbalanced
from cellflow.methods.recipes import RELATIVE_SIGMA
from cellflow.plans import Plan, PotentialPlan
from cellflow.preprocessing import fit_preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import natural_sigma

FILE = "cite13176_pca100.npz"
BLOCK = 256
TOLERANCE = 1e-6
#: Sweeps that peers may take over a block, and over whole days, where each takes seconds.
SWEEPS, QUICK_SWEEPS, LARGE_SWEEPS = 2000, 300, 3
Blocks = list[tuple[Snapshot, Snapshot]]


def read(path: Path, dims: int) -> TimeCourse:
    with np.load(path) as stored:
        x, t = stored["X"][:, :dims].astype(np.float32), stored["t"]
    course = TimeCourse.from_arrays([torch.from_numpy(x[t == k]) for k in np.unique(t)])
    return course.map(fit_preprocessing(course.x, whiten=dims <= 5).apply)


def blocks(course: TimeCourse, count: int, size: int = BLOCK) -> Blocks:
    """Blocks of every interval in turn, the same at every call."""
    g = torch.Generator().manual_seed(0)
    steps = list(course.steps)
    pairs = [steps[k % len(steps)] for k in range(count)]
    cut = [[s.subset(torch.randperm(len(s), generator=g)[:size]) for s in pair] for pair in pairs]
    return [(source, target) for source, target in cut]


def cost_of(source: Snapshot, target: Snapshot) -> np.ndarray:
    return half_squared_distance(source.x.double(), target.x.double()).numpy()


def short_of(matrix: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(matrix.sum(0) - b).sum() + np.abs(matrix.sum(1) - 1 / len(matrix)).sum())


def of_pot(coupling: Entropic, pairs: Blocks, errors: list[float], sweeps: int) -> Callable:
    """POT's log-domain Sinkhorn, one pair after the other; `errors` is filled."""

    def run() -> None:
        errors.clear()
        for source, target in pairs:
            a, b = (s.weights.numpy() for s in (source, target))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it did not converge: the note says so
                matrix = ot.bregman.sinkhorn_log(
                    a,
                    b,
                    cost_of(source, target),
                    coupling.epsilon_for(source, target),
                    numItermax=sweeps,
                    stopThr=TOLERANCE / math.sqrt(len(b)),
                )
            errors.append(short_of(matrix, b))

    return run


def of_pot_batch(coupling: Entropic, pairs: Blocks, errors: list[float], sweeps: int) -> Callable:
    """POT's batched Sinkhorn; all pairs of one interval, hence of one regularisation."""

    def run() -> None:
        errors.clear()
        costs = torch.stack([torch.from_numpy(cost_of(*pair)) for pair in pairs])
        result = ot.solve_batch(
            costs,
            reg=coupling.epsilon_for(*pairs[0]),
            max_iter=sweeps,
            tol=TOLERANCE,
            method="log_sinkhorn",
            grad="detach",
        )
        errors.extend(short_of(plan, np.full(BLOCK, 1 / BLOCK)) for plan in result.plan.numpy())

    return run


def of_ott(coupling: Entropic, pairs: Blocks, errors: list[float], sweeps: int) -> Callable:
    """The log-domain Sinkhorn of ott-jax, compiled in the warm-up."""
    import jax
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    jax.config.update("jax_enable_x64", True)
    solver = jax.jit(Sinkhorn(threshold=TOLERANCE, max_iterations=sweeps))

    def run() -> None:
        errors.clear()
        for source, target in pairs:
            geometry = Geometry(
                jax.numpy.asarray(cost_of(source, target)),
                epsilon=coupling.epsilon_for(source, target),
            )
            errors.append(short_of(np.asarray(solver(LinearProblem(geometry)).matrix), 1 / BLOCK))

    return run


PEERS = {"ot.sinkhorn_log": of_pot, "ot.solve_batch": of_pot_batch, "ott-jax": of_ott}


def of_blocks(
    path: Path, dims: int, relative: float, *, count: int, rounds: int, sweeps: int
) -> Iterator[Row]:
    course = read(path, dims)
    coupling = Entropic(sigma=relative * natural_sigma(course), tolerance=TOLERANCE)
    pairs = blocks(course, 3 * count)[::3]  # of the first interval: one regularisation
    work = f"entropic plans of 256 cells, {dims}-D, sigma {relative:g} x the data's"

    def ours() -> list[Plan]:
        return coupling.many(*zip(*pairs, strict=True))

    for name, peer in PEERS.items():
        errors: list[float] = []
        try:
            theirs = peer(coupling, pairs, errors, sweeps)
            timing = interleaved(ours, theirs, rounds=rounds)
        except ImportError as error:
            skip_aloud(name, error)
            continue
        plans = ours()
        note = f"errors {max(p.marginal_error for p in plans):.0e}, {max(errors):.0e}"
        yield Row(
            work,
            name,
            1e3 * timing.ours / count,
            1e3 * timing.theirs / count,
            "ms",
            "-",
            timing.ratio,
            note=f"{note}; {np.mean([p.partners for p in plans]):.3g} partners",
            span=timing.span,
        )


def of_growth(path: Path, *, count: int, sweeps: int) -> Row:
    """The default of UOT-CFM against POT's translation-invariant unbalanced Sinkhorn."""
    pairs = blocks(read(path, 5), count)
    coupling = Unbalanced(tolerance=TOLERANCE)

    def theirs() -> None:
        for source, target in pairs:
            cost = cost_of(source, target)
            a, b = (s.weights.numpy() for s in (source, target))
            unit = float(a @ cost @ b)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ot.unbalanced.sinkhorn_unbalanced(
                    a,
                    b,
                    cost,
                    coupling.relative_epsilon * unit,
                    (unit, np.inf),
                    method="sinkhorn_stabilized",
                    reg_type="kl",
                    numItermax=sweeps,
                    stopThr=TOLERANCE,
                )

    timing = interleaved(lambda: coupling.many(*zip(*pairs, strict=True)), theirs, rounds=3)
    return Row(
        "unbalanced plans of 256 cells, 5-D, the default",
        "ot.sinkhorn_unbalanced",
        1e3 * timing.ours / count,
        1e3 * timing.theirs / count,
        "ms",
        "-",
        timing.ratio,
        note=f"theirs at most {sweeps} sweeps",
        span=timing.span,
    )


def whole_days(path: Path, dims: int, relative: float) -> tuple[float, float, float, int, int]:
    """Couple two days whole: seconds, error, partners and sizes; in a process of its own."""
    torch.set_num_threads(1)
    course = read(path, dims)
    source, target = next(iter(course.steps))
    coupling = Entropic(sigma=relative * natural_sigma(course), tolerance=TOLERANCE)
    start = time.perf_counter()
    plan = coupling(source, target)
    seconds = time.perf_counter() - start
    if not isinstance(plan, PotentialPlan):
        raise TypeError(f"a plan of {plan.shape} is expected to be held as potentials")
    return seconds, plan.marginal_error, plan.partners, *plan.shape


def of_days(path: Path, dims: int, relative: float) -> Row:
    (seconds, error, partners, n, m), peak = in_subprocess(whole_days, path, dims, relative)
    course = read(path, dims)
    pair = next(iter(course.steps))
    errors: list[float] = []
    coupling = Entropic(sigma=relative * natural_sigma(course), tolerance=TOLERANCE)
    run = of_pot(coupling, [pair], errors, LARGE_SWEEPS)
    start = time.perf_counter()
    run()
    theirs = time.perf_counter() - start
    return Row(
        f"one entropic plan of {n} x {m} cells, {dims}-D, sigma {relative:g} x the data's",
        f"{LARGE_SWEEPS} sweeps of ot.sinkhorn_log",
        seconds,
        theirs,
        "s",
        "-",
        None,
        note=f"errors {error:.0e}, {errors[0]:.0e}; {partners:.3g} partners",
        peak_mb=peak,
    )


def rows(data: Path, *, quick: bool = True) -> Iterator[Row]:
    """Yield the rows of entropic plans."""
    torch.set_num_threads(1)
    path = data / FILE
    count, rounds = (2, 2) if quick else (8, 5)
    sweeps = QUICK_SWEEPS if quick else SWEEPS
    diffusions: Sequence[float] = (RELATIVE_SIGMA,) if quick else (0.1, RELATIVE_SIGMA, 0.4, 0.8)
    for dims in (5, 50):
        for relative in diffusions:
            yield from of_blocks(path, dims, relative, count=count, rounds=rounds, sweeps=sweeps)
    yield of_growth(path, count=count, sweeps=sweeps)
    for dims, relative in ((5, 0.4),) if quick else ((5, 0.4), (5, 0.2), (50, 0.8), (50, 0.4)):
        yield of_days(path, dims, relative)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="What the table runs.")
def main(data: Path, quick: bool) -> None:
    """Print the rows."""
    print_rows(rows(data, quick=quick))


if __name__ == "__main__":
    main()
