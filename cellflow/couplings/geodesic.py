"""Optimal transport for distances along the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch

from cellflow import _checks
from cellflow._random import shuffle
from cellflow._typing import Tensor
from cellflow.costs import brownian_epsilon, half_squared_distance
from cellflow.couplings.coupling import COUPLINGS, Coupling, centred
from cellflow.couplings.entropic import Entropic, unconverged
from cellflow.couplings.exact import assign_costs, most_pivots, network_simplex
from cellflow.plans.forms import PairPlan, pair_plan
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve

#: Partitions that an exact plan is averaged over.
ROUNDS = 8
#: Mass of a block that may be lost to entries too small to list.
UNLISTED_MASS = 1e-9
#: Part of a cell's share below which its presence in a block is rounding.
SMALLEST_SHARE = 1e-9
#: Why a plan is for straight distances.
APART = (
    "no path in the graph of nearest neighbours leads from source to target cells; "
    "straight distances took the place of those along it"
)

#: Cost between source and target cells of these indices.
Ground: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


@COUPLINGS.register("geodesic")
@dataclass(frozen=True)
class Geodesic(Coupling):
    r"""Pair cells by optimal transport for half the squared distance *along the data*.

    The distance is that along a graph which joins each cell to its nearest neighbours among the
    cells of *both* snapshots: pairs follow the manifold (Tong et al., 2023, "Simulation-free
    Schrödinger bridges via score and flow matching", the geodesic cost). Components of the graph
    are joined by their shortest bridges, as in a minimum spanning tree. If none holds cells of both
    snapshots, the straight distance takes its place, and `fallback` says so.

    The plan is exact, or entropic if `sigma` or `epsilon` is given. Large snapshots are cut at
    random into blocks of equal mass, which are coupled block by block: minibatch couplings with
    distances from the whole graph. Masses are respected exactly; no n × m matrix is ever made.

    The graph is only as good as the cells are dense: where snapshots hardly touch, all paths lead
    through the few cells at the contact, and distances say little about who becomes whom.

    The plan's `cost` is the straight one, as for every coupling, and so comparable with theirs.

    Parameters
    ----------
    sigma, epsilon, tolerance, max_iter
        Of an entropic plan, as in :class:`Entropic`; at most one of the first two is given.
    n_neighbors
        Neighbours of each cell in the graph.
    block_size
        Cells coupled together, about; snapshots no larger are coupled whole.
    rounds
        Partitions into blocks whose plans are averaged; 8 when omitted, and 1 for entropic plans,
        in which each cell has several partners already.
    seed
        Decides the blocks. The order of the cells does not matter.

    Examples
    --------
    Cells move along an arc that almost closes. By straight distances the first cell goes across
    the gap.

    >>> import torch
    >>> from cellflow.couplings import Exact
    >>> from cellflow.timecourse import Snapshot
    >>> angle = torch.linspace(0.0, 5.5, 40, dtype=torch.float64)
    >>> arc = torch.stack([angle.cos(), angle.sin()], 1)
    >>> source, target = Snapshot(arc[:20], 0.0), Snapshot(arc[20:], 1.0)
    >>> straight, along = Exact()(source, target), Geodesic(n_neighbors=2)(source, target)
    >>> int(straight.cols[0]), int(along.cols[0])
    (15, 0)
    """

    needs_whole: ClassVar[bool] = True

    sigma: float | None = None
    epsilon: float | None = None
    n_neighbors: int = field(default=10, kw_only=True)
    block_size: int = field(default=512, kw_only=True)
    rounds: int | None = field(default=None, kw_only=True)
    tolerance: float = field(default=1e-6, kw_only=True)
    max_iter: int = field(default=1000, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.sigma is not None and self.epsilon is not None:
            raise ValueError(_checks.message("sigma, epsilon", "both", "at most one of them"))
        _checks.count(self.n_neighbors, "n_neighbors")
        _checks.count(self.block_size, "block_size", low=2)
        if self.rounds is not None:
            _checks.count(self.rounds, "rounds")
        _checks.count(self.seed, "seed", low=0, high=_checks.MAX_SEED)
        epsilon = 1.0 if self.sigma is None and self.epsilon is None else self.epsilon
        Entropic(self.sigma, epsilon, tolerance=self.tolerance, max_iter=self.max_iter)  # checks

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        x, y = centred(source, target)
        epsilon, sigma = self.epsilon, self.sigma
        if sigma is not None:
            epsilon = brownian_epsilon(sigma, target.time - source.time)
        default = ROUNDS if epsilon is None else 1
        rounds = default if self.rounds is None else self.rounds
        generator = _checks.as_generator(self.seed)
        cut = _blocks(source, target, size=self.block_size, rounds=rounds, generator=generator)
        ground, failed = self._ground(source, target)
        found: list[_Part] = []
        for rows, partners in cut:
            ends = np.unique(np.concatenate([block.cells for block in partners]))
            cost = ground(rows.cells, ends)
            for cols in partners:
                part = cost[:, np.searchsorted(ends, cols.cells)]
                found.append(self._solve(part, rows, cols, epsilon))
        pairs = _merged(found, (len(x), len(y)), x.device)
        masses, converged = (source.weights, target.weights), all(part.converged for part in found)
        plan = pair_plan(pairs, (x, y), masses, converged=converged)
        reasons = [failed, *(part.fallback for part in found)]
        return replace(plan, fallback=next((text for text in reasons if text), None))

    def _ground(self, source: Snapshot, target: Snapshot) -> tuple[Ground, str | None]:
        """Return the cost between source and target cells, and why it is not the one asked for."""
        from cellflow.costs import neighbours  # loads scipy's sparse matrices

        x, y = centred(source, target)
        n = len(x)
        graph = neighbours.neighbour_graph(torch.cat([x, y]).cpu().numpy(), self.n_neighbors)
        if not np.isin(graph.component[:n], graph.component[n:]).any():

            def straight(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
                return half_squared_distance(x[rows], y[cols]).cpu().numpy()

            return straight, APART
        return lambda rows, cols: 0.5 * graph.paths(rows, cols + n) ** 2, None

    def _solve(self, cost: np.ndarray, rows: _Block, cols: _Block, epsilon: float | None) -> _Part:
        """Couple two blocks."""
        fallback = None
        if epsilon is not None:
            a, b = (torch.from_numpy(block.mass / block.mass.sum()) for block in (rows, cols))
            problem = Problem(torch.from_numpy(cost), Marginals(Marginal(a), Marginal(b)), epsilon)
            s = solve(problem, tolerance=self.tolerance, max_iter=self.max_iter)
            if s.error <= self.tolerance:
                plan = s.plan.numpy()
                i, j = np.nonzero(plan > UNLISTED_MASS / plan.size)
                mass = plan[i, j] * (rows.mass.sum() / plan[i, j].sum())
                return _Part(rows.cells[i], cols.cells[j], mass)
            fallback = unconverged(epsilon, s)
        part = _exact(cost, rows.mass, cols.mass)
        i, j = rows.cells[part.rows], cols.cells[part.cols]
        return part._replace(rows=i, cols=j, fallback=fallback)


class _Part(NamedTuple):
    """Part of a plan: rows, columns and mass of its pairs, and how it went."""

    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    converged: bool = True
    fallback: str | None = None


def _exact(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> _Part:
    """Return an optimal plan, and whether duals certify it."""
    if len(a) == len(b) and (a == a[0]).all() and (b == a[0]).all():
        (rows, cols, _), _, converged = assign_costs(torch.from_numpy(cost))
        return _Part(rows.numpy(), cols.numpy(), a, converged)
    total = a.sum()
    p, q, c = (torch.from_numpy(value) for value in (a / total, b / b.sum(), cost))
    bound = most_pivots(*cost.shape)
    (rows, cols, mass), _, converged = network_simplex(p, q, c, max_iter=bound)
    return _Part(rows.numpy(), cols.numpy(), total * mass.numpy(), converged)


def _merged(
    parts: list[_Part], shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Put parts together, of total mass one, each pair once, sorted by row and column."""
    rows, cols, mass = (np.concatenate([part[k] for part in parts]) for k in range(3))
    keys, index = np.unique(rows * shape[1] + cols, return_inverse=True)
    rows, cols = np.divmod(keys, shape[1])
    mass = np.bincount(index, mass)
    left, right, share = (torch.from_numpy(v).to(device) for v in (rows, cols, mass / mass.sum()))
    return left, right, share


class _Block(NamedTuple):
    """Indices ``(k,)`` of cells, and the part of their mass in this block; of all blocks, one."""

    cells: np.ndarray
    mass: np.ndarray


def _blocks(
    source: Snapshot, target: Snapshot, *, size: int, rounds: int, generator: torch.Generator
) -> list[tuple[_Block, list[_Block]]]:
    """Cut both snapshots at random into as many blocks, each as heavy as its partner.

    Cells that straddle a cut are in two blocks; `size` bounds the mean number of cells in a block.
    Each block of the source comes with its partners of all `rounds` (one if there is one block).
    What is drawn does not depend on the order of the cells.
    """
    n, m = len(source), len(target)
    count = math.ceil(max(n, m) / size)
    # As many cells on both sides: whole cells per block. Otherwise masses decide.
    parts = np.array_split(np.arange(n), count) if n == m else [np.arange(1)] * count
    ends = np.cumsum([len(part) for part in parts])
    levels = np.concatenate([[0.0], ends / ends[-1]])
    left = _cut(source, levels, generator)
    right = [_cut(target, levels, generator) for _ in range(rounds if count > 1 else 1)]
    return [(block, list(partners)) for block, *partners in zip(left, *right, strict=True)]


def _cut(snapshot: Snapshot, levels: np.ndarray, generator: torch.Generator) -> list[_Block]:
    """Cut cells, in random order, where their cumulated mass reaches each of `levels`."""
    x, mass = snapshot.x.detach().double().cpu().numpy(), snapshot.weights.cpu().numpy()
    # Of cells ordered by their coordinates, whatever their rows, shift and scale.
    order = np.lexsort([mass, *x.T[::-1]])[shuffle(len(snapshot), generator).numpy()]
    mass = mass[order]
    # Not summed where it need not be: cuts between whole cells shall be exactly there.
    ends = np.arange(1, len(mass) + 1) / len(mass) if snapshot.is_uniform else mass.cumsum()
    ends[-1] = 1.0
    starts = np.concatenate([[0.0], ends[:-1]])
    out = []
    for low, high in pairwise(levels):
        span = slice(np.searchsorted(ends, low, "right"), np.searchsorted(starts, high, "left"))
        inside = np.minimum(ends[span], high) - np.maximum(starts[span], low)
        whole = (starts[span] >= low) & (ends[span] <= high)
        share = np.where(whole, mass[span], inside)
        kept = share > SMALLEST_SHARE * mass[span]
        out.append(_Block(order[span][kept], share[kept]))
    return out
