"""Near-optimal one-to-one matching of two large clouds: a start by trees, then sweeps.

A swap between two pairs pays if and only if their displacements differ by more than their
midpoints do (both halved): the square of the one minus that of the other is what it gains. So the
blocks of a sweep are neighbourhoods of *midpoints*: leaves of a tree that halves the pairs along
random directions, other ones in every sweep. What is left between blocks of one sweep lies inside
a block of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from cellflow._typing import Tensor

#: Bid increments of a block's auction, relative to the spread of its costs.
INCREMENTS = np.array([0.1, 0.02, 0.004], np.float32)
#: Gain of a sweep, relative to the cost, below which the last increment pays.
FINE = 2e-3
#: Levels of a tree whose keys are held, and pairs whose differences are taken, at once.
LEVELS, CHUNK = 8, 2**14
#: Part of the total variance below which a direction is constant.
SMALLEST_VARIANCE = 1e-6
#: Shares of work per thread: blocks do not all take as long.
SHARES = 8
#: Two arrays that belong together: of both clouds, or of rows and columns.
Both: TypeAlias = tuple[np.ndarray, np.ndarray]


class Run(NamedTuple):
    """Random numbers for sweeps, and the threads (None: this one) that their kernels run on."""

    generator: torch.Generator
    pool: ThreadPoolExecutor | None = None
    shares: int = 1

    def __call__(self, work: Callable[[int, int], object], count: int) -> None:
        """Do the `work`, from one number up to another, for all numbers below `count`."""
        if self.pool is None:
            work(0, count)
            return
        ends = np.linspace(0, count, min(count, self.shares) + 1).astype(int)
        list(self.pool.map(work, ends[:-1].tolist(), ends[1:].tolist()))


class Alignment(NamedTuple):
    """Optimal maps between the Gaussians of two clouds, and their cost.

    `means` ``(d,)`` are those of the clouds; `forward` and `back` ``(d, d)`` the linear parts of
    the maps; `roots` the square roots of the covariances of the second cloud and of midpoints
    (times two). `bound` is half the squared Gelbrich distance: no coupling costs less (Gelbrich,
    1990, "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
    spaces").
    """

    means: tuple[Tensor, Tensor]
    forward: Tensor
    back: Tensor
    roots: tuple[Tensor, Tensor]
    bound: float


class Matching(NamedTuple):
    """A one-to-one matching: the partner of each row, and the dual variable of each column.

    Duals are for the cost ``-x . y``, up to a constant. `gains` are what each sweep took off the
    cost, as a share of what was left.
    """

    cols: np.ndarray
    price: np.ndarray
    gains: list[float]


@contextmanager
def running(threads: int, generator: torch.Generator) -> Iterator[Run]:
    """Give a way to run kernels on so many threads."""
    if threads == 1:
        yield Run(generator)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="cellflow-sweep") as pool:
        yield Run(generator, pool, SHARES * threads)


def match(
    points: Both, alignment: Alignment, *, block_size: int, sweeps: int, tolerance: float, run: Run
) -> Matching:
    """Match each row of the one cloud with one of the other, float32 of shape ``(n, d)``.

    It takes O(n (log n + block_size)) time a sweep and O(n) memory beside the points. It ends
    after two sweeps in a row that gained less than `tolerance`.
    """
    from cellflow.transport.clouds import _block_auction

    x, y = points
    n = len(x)
    cols = _start(x, y, alignment, run)
    price = _first_prices(y, alignment)
    rows = np.arange(n)
    gains: list[float] = []
    parts = (np.square(x[k : k + CHUNK] - y[cols[k : k + CHUNK]]) for k in range(0, n, CHUNK))
    cost = 0.5 * float(sum(part.sum(dtype=np.float64) for part in parts))
    leaves = math.ceil(n / block_size)
    for _ in range(sweeps if leaves > 1 else 1):
        blocks = tree(points, (rows, cols), leaves=leaves, root=alignment.roots[1], run=run)
        gain = np.zeros(leaves)
        steps = INCREMENTS[: 2 if not gains or gains[-1] > FINE else 3]

        def work(low: int, high: int) -> None:
            part = (low, high)
            _block_auction.reassign(points, (rows, cols), price, blocks, steps, part, gain)  # noqa: B023

        run(work, leaves)
        gains.append(float(gain.sum()) / cost if cost > 0 else 0.0)
        cost -= float(gain.sum())
        if max(gains[-2:]) < tolerance and len(gains) > 1:
            break
    return Matching(cols, price, gains)


def tree(points: Both, pairs: Both, *, leaves: int, root: Tensor, run: Run) -> Both:
    """Halve pairs by the sum of their ends along random directions, down to `leaves` blocks.

    Return the order and the starts of the blocks, all of a size but for rounding; `root` is that
    of the covariance that the directions are drawn from.
    """
    ways = directions(root, math.ceil(math.log2(leaves)), run.generator)
    return along(points, pairs, ways, leaves=leaves, run=run)


def along(points: Both, pairs: Both, ways: np.ndarray, *, leaves: int, run: Run) -> Both:
    """Do what `tree` does, along the directions ``ways (levels, d)``."""
    from cellflow.transport.clouds import _block_auction

    (x, y), (rows, cols) = points, pairs
    order, starts, parts = np.arange(len(rows)), np.array([0, len(rows)]), np.array([leaves])
    keys = np.empty((min(LEVELS, len(ways)), len(rows)), np.float32)
    for first in range(0, len(ways), LEVELS):
        some = np.ascontiguousarray(ways[first : first + LEVELS].T)

        def work(low: int, high: int) -> None:
            _block_auction.project(x, y, rows, cols, some, keys, low, high)  # noqa: B023

        run(work, len(rows))
        for key in keys[: some.shape[1]]:
            starts, parts = _block_auction.cut(key, order, starts, parts)
    return order, starts


def directions(root: Tensor, levels: int, generator: torch.Generator) -> np.ndarray:
    """Draw directions, shape ``(levels, d)``: long axes of the data more often than short ones."""
    d = len(root)
    out: list[Tensor] = []
    while levels > sum(part.shape[1] for part in out):
        some = min(d, levels - sum(part.shape[1] for part in out))
        random = torch.randn(d, some, generator=generator, dtype=torch.float64)
        out.append(torch.linalg.qr(root @ random)[0])
    if not out:
        return np.empty((0, d), np.float32)
    return np.ascontiguousarray(torch.cat(out, 1).T.float().numpy())


def align(x: np.ndarray, y: np.ndarray) -> Alignment:
    """Return the optimal maps between the Gaussians of two clouds, also where they are flat."""
    (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
    cross = _bures(cov_x, cov_y)
    bound = 0.5 * float((mean_x - mean_y).square().sum() + (cov_x + cov_y - 2 * cross).trace())
    floor = SMALLEST_VARIANCE * float((cov_x + cov_y).trace()) or 1.0
    eye = floor * torch.eye(len(cov_x), dtype=torch.float64)
    forward, back = _map(cov_x + eye, cov_y + eye), _map(cov_y + eye, cov_x + eye)
    both = cov_y + cov_x + forward @ cov_x + cov_x @ forward.T
    roots = _root(cov_y), _root((both + both.T) / 2)
    return Alignment((mean_x, mean_y), forward, back, roots, max(bound, 0.0))


def moments(x: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of a float32 cloud, in float64."""
    parts = [torch.from_numpy(x[k : k + CHUNK]) for k in range(0, len(x), CHUNK)]
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(x)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in parts:
        centred = part.double() - mean
        covariance += centred.T @ centred / len(x)
    return mean, covariance


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


def _bures(a: Tensor, b: Tensor) -> Tensor:
    """Return the square root of ``√a b √a``."""
    root = _root(a)
    inside = root @ b @ root
    return _root((inside + inside.T) / 2)


def _map(a: Tensor, b: Tensor) -> Tensor:
    """Linear part of the optimal map from a Gaussian of covariance `a` to one of `b`."""
    inverse = torch.linalg.inv(_root(a))
    out = inverse @ _bures(a, b) @ inverse
    return (out + out.T) / 2


def _start(x: np.ndarray, y: np.ndarray, alignment: Alignment, run: Run) -> np.ndarray:
    """Match by two trees with the same directions, down to single points, in aligned space."""
    n = len(x)
    ways = directions(alignment.roots[0], math.ceil(math.log2(n)), run.generator)
    back = np.ascontiguousarray((torch.from_numpy(ways).double() @ alignment.forward).float())
    nothing, none = np.zeros((1, x.shape[1]), np.float32), np.zeros(n, np.int64)
    left, _ = along((x, nothing), (np.arange(n), none), back, leaves=n, run=run)
    right, _ = along((nothing, y), (none, np.arange(n)), ways, leaves=n, run=run)
    cols = np.empty(n, np.int64)
    cols[left] = right
    return cols


def _first_prices(y: np.ndarray, alignment: Alignment) -> np.ndarray:
    """Dual variables of the Gaussians: minus the potential whose gradient maps `y` back."""
    mean_x, mean_y = alignment.means
    out = []
    for k in range(0, len(y), CHUNK):
        part = torch.from_numpy(y[k : k + CHUNK]).double() - mean_y
        out.append(-(0.5 * ((part @ alignment.back) * part).sum(1) + part @ mean_x))
    return torch.cat(out).float().numpy()
