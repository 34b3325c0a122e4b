"""Couplings of whole snapshots: a million cells against minibatches, ten thousand against exact.

    python benchmarks/speed/coupling.py FOLDER             # also in 50 dimensions, and slow peers
    python benchmarks/speed/coupling.py FOLDER --quick     # what the table runs

A million cells are drawn from Gaussian mixtures (24 components, full covariances), fitted to days 2
and 3 of CITE-seq in 5 whitened or in 50 principal components: smooth, clustered, of the shape of
the data, and no cell twice. Costs are half the mean squared distance of pairs. Seconds of the
million are of CPU time over all threads, compiled before; peaks are of the process, data and
libraries included. Minibatches pair 256 random cells with 256 by exact assignment: their cost is
the mean over 40 of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from timing import Row, in_subprocess, print_rows, skip_aloud

from cellflow.couplings import Exact, Hierarchical
from cellflow.timecourse import Snapshot
from cellflow.transport.assignment.solve import assign_blocks

FILE = "cite13176_pca100.npz"
COMPONENTS = 24
MINIBATCHES, MINIBATCH = 40, 256
#: Of a million cells: seconds of CPU time, and cost relative to minibatches.
TARGETS = {5: (120, 0.85), 50: (200, 0.93)}
#: Cells that POT's exact solver, its trees, and ott-jax's Sinkhorn are given.
SIMPLEX, TREES, ENTROPIC = 4000, 100_000, 4000


class Found(NamedTuple):
    """What a coupling took, and what it found."""

    seconds: float
    cost: float
    gap: float | None = None


def days(folder: str, dims: int) -> list[np.ndarray]:
    """Cells of days 2 and 3, whitened in few dimensions."""
    with np.load(Path(folder) / FILE) as stored:
        x, t = stored["X"][:, :dims].astype(np.float64), stored["t"]
    x = [x[t == k] for k in np.unique(t)[:2]]
    scale = np.concatenate(x).std(0) if dims <= 5 else 1.0
    return [part / scale for part in x]


def drawn(folder: str, dims: int, n: int) -> list[Snapshot]:
    """Snapshots of `n` cells from mixtures fitted to the days."""
    from sklearn.mixture import GaussianMixture

    out = []
    for k, cells in enumerate(days(folder, dims)):
        fitted = GaussianMixture(COMPONENTS, random_state=0, max_iter=100, tol=1e-2).fit(cells)
        g = torch.Generator().manual_seed(k)
        which = torch.from_numpy(fitted.weights_).multinomial(n, replacement=True, generator=g)
        x = torch.randn(n, dims, generator=g)
        for c in range(COMPONENTS):
            here = (which == c).nonzero()[:, 0]
            half = torch.from_numpy(np.linalg.cholesky(fitted.covariances_[c])).float()
            x[here] = x[here] @ half.T + torch.from_numpy(fitted.means_[c]).float()
        out.append(Snapshot(x, float(k)))
    return out


def timed(coupling: Any, source: Snapshot, target: Snapshot) -> Found:
    start = time.process_time()
    plan = coupling(source, target)
    return Found(time.process_time() - start, plan.cost, plan.gap)


def compiled(dims: int) -> None:
    """Let the kernels compile, or come from their cache."""
    g = torch.Generator().manual_seed(0)
    small = [Snapshot(torch.randn(600, dims, generator=g), t) for t in (0.0, 1.0)]
    Hierarchical(sweeps=2)(*small)
    Exact()(*small)


def million(folder: str, dims: int, n: int) -> tuple[Found, float]:
    """Our plan of `n` cells, and the cost of minibatches."""
    compiled(dims)
    source, target = drawn(folder, dims, n)
    found = timed(Hierarchical(), source, target)
    return found, minibatch_cost(source, target)


def minibatch_cost(source: Snapshot, target: Snapshot) -> float:
    g = torch.Generator().manual_seed(0)
    costs = []
    for _ in range(MINIBATCHES):
        x, y = (
            s.x[torch.randint(len(s), (MINIBATCH,), generator=g)].double().numpy()
            for s in (source, target)
        )
        (cols,), _ = assign_blocks(x[None], y[None])
        costs.append(0.5 * np.square(x - y[cols]).sum(1).mean())
    return float(np.mean(costs))


def near_exact(folder: str, dims: int, n: int) -> tuple[Found, Found]:
    """Ours, and the exact assignment, of `n` cells."""
    compiled(dims)
    cells = drawn(folder, dims, n)
    return timed(Hierarchical(), *cells), timed(Exact(), *cells)


def network_simplex(folder: str, dims: int, n: int) -> tuple[Found, Found]:
    """Ours, and POT's exact solver run until it is done."""
    import ot

    compiled(dims)
    cells = drawn(folder, dims, n)
    ours = timed(Hierarchical(), *cells)
    start = time.process_time()
    mass = np.full(n, 1.0 / n)
    cost = 0.5 * ot.dist(*(s.x.double().numpy() for s in cells))
    value = ot.emd2(mass, mass, cost, numItermax=100_000_000)
    return ours, Found(time.process_time() - start, float(value))


def space_partitions(folder: str, dims: int, n: int) -> tuple[Found, Found]:
    """Ours, and POT's bijection from 64 merged trees."""
    import ot

    compiled(dims)
    cells = drawn(folder, dims, n)
    ours = timed(Hierarchical(), *cells)
    x, y = (s.x.double().numpy() for s in cells)
    start = time.process_time()
    order = np.asarray(ot.bsp.compute_bspot_bijection(x, y)[1], np.int64)
    seconds = time.process_time() - start
    return ours, Found(seconds, 0.5 * float(np.square(x - y[order]).sum(1).mean()))


def sinkhorn(folder: str, dims: int, n: int) -> tuple[Found, Found]:
    """Ours, and ott-jax's Sinkhorn at a hundredth of the mean cost; the cost is its plan's."""
    import jax
    from ott.geometry import pointcloud
    from ott.solvers import linear

    compiled(dims)
    cells = drawn(folder, dims, n)
    ours = timed(Hierarchical(), *cells)
    x, y = (jax.numpy.asarray(s.x.numpy()) for s in cells)
    geometry = pointcloud.PointCloud(x, y, epsilon=0.01, relative_epsilon="mean")
    solve = jax.jit(lambda g: linear.solve(g))
    jax.block_until_ready(solve(geometry).f)  # compiles
    start = time.process_time()
    out = jax.block_until_ready(solve(geometry))
    seconds = time.process_time() - start
    return ours, Found(seconds, 0.5 * float(out.transport_cost_at_geom(geometry)))


def rows(
    data: Path, *, quick: bool = True, dimensions: tuple[int, ...] | None = None
) -> Iterator[Row]:
    """Lines of the table."""
    folder = str(data)
    chosen = dimensions or ((5,) if quick else (5, 50))
    for dims in chosen:
        (found, other), peak = in_subprocess(million, folder, dims, 1_000_000)
        seconds, share = TARGETS[dims]
        work = f"coupling 1 M × 1 M cells, {dims}-D"
        note = f"CPU seconds; certified within {100 * found.gap:.0f} % of the optimum"
        yield Row(
            *(work, "-", found.seconds, None, "s", f"≤ {seconds} s", None, note), peak_mb=peak
        )
        ratio = found.cost / other
        against = "minibatches of 256"
        yield Row(
            *(f"{work}: cost", against, found.cost, other, "", f"≤ {share}x", ratio),
            note="ratio: ours / theirs",
        )
    for dims in chosen:
        (ours, best), _ = in_subprocess(near_exact, folder, dims, 10_000)
        above = 100 * (ours.cost / best.cost - 1)
        note = f"{ours.seconds:.1f} s and {best.seconds:.1f} s; certified within "
        note += f"{100 * ours.gap:.1f} %"
        work = f"coupling 10,000 × 10,000, {dims}-D: above the optimum"
        yield Row(work, "exact", above, None, "%", "≤ 0.5 %", None, note)
    peers = [
        ("POT ot.emd2", network_simplex, SIMPLEX),
        ("POT BSP, 64 trees", space_partitions, TREES),
        ("ott-jax Sinkhorn", sinkhorn, ENTROPIC),
    ]
    for name, work, n in peers[1:2] if quick else peers:
        for dims in chosen:
            try:
                (ours, theirs), _ = in_subprocess(work, folder, dims, n)
            except (ImportError, AttributeError) as error:
                skip_aloud(name, error)
                continue
            note = f"CPU seconds; cost {ours.cost:.4g} against {theirs.cost:.4g}"
            if ours.gap is not None:
                note += f", ours certified within {100 * ours.gap:.0f} %"
            yield Row(
                *(f"coupling {n:,} × {n:,} cells, {dims}-D", name, ours.seconds, theirs.seconds),
                *("s", "", theirs.seconds / ours.seconds, note),
            )


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--quick", is_flag=True)
@click.option("--dims", multiple=True, type=click.Choice(["5", "50"]), help="Only these.")
def main(data: Path, quick: bool, dims: tuple[str, ...]) -> None:
    for row in rows(data, quick=quick, dimensions=tuple(map(int, dims)) or None):
        print_rows([row])


if __name__ == "__main__":
    main()
