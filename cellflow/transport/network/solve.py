r"""Exact transport between clouds by column generation, certified by its duals.

A coarse problem gives approximate duals; they pick the dozen cheapest arcs of every row and
column; a few of Sinkhorn's iterations on this sparse graph sharpen them, and a new pick is solved
exactly by the network simplex (:mod:`cellflow.transport.network._tree`). A pass over all n·m
costs, in tiles, then finds every arc that would improve the plan. They join the graph and the
simplex goes on where it stopped, until there are none: the duals are then feasible for the whole
problem, and their value is a lower bound that the plan attains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from cellflow._typing import Tensor

#: Arcs picked for each row and each column, and largest number of a row's arcs added in a round.
PICKED, ADDED = 14, 16
#: Every so many cells make the coarse problem; below so many, a problem is solved as it is.
COARSER, SMALL = 8, 640
#: Arcs among which the simplex looks for the one to enter.
BLOCK = 600
#: Toll of the way through the root that no arc of a problem exceeds, nor need it be paid.
DEAREST = 8.0
#: Largest gap, relative to the cost, of a certified plan; rounding, in units of the largest dual,
#: is allowed on top.
TOLERANCE, ROUNDING = 1e-9, 1e-12
#: Pairs of cells, and cells on either side, from which on a problem is worth this way. Below, the
#: plain simplex takes less time than loading the compiled code (half a second).
LARGE, FEWEST = 2_000_000, 50
#: Rounds of column generation: three or four suffice unless ties abound.
ROUNDS = 40
#: Costs that are kept, at most (128 MB in float32); more are made in each pass, tile by tile.
KEPT, TILE = 2**25, 2**21


@dataclass(frozen=True, eq=False)
class Problem:
    """Two clouds ``(n, d)`` and ``(m, d)`` in float64, with points at most 1 from the origin.

    Their masses `a` and `b` are whole units, int64, of equal totals; the cost is a `power`, 1 or
    2, of the distance.
    """

    x: Tensor
    y: Tensor
    a: np.ndarray
    b: np.ndarray
    power: int
    max_pivots: int

    def margin(self, dtype: torch.dtype) -> float:
        """Bound on the rounding of a cost in a tile, and of a dual that is compared with it."""
        doubt = 2.0 * self.x.shape[1] + 24.0  # of a squared distance, in units of epsilon / 2
        squared = doubt * torch.finfo(dtype).eps / 2
        return (math.sqrt(squared) if self.power == 1 else squared) + 8 * torch.finfo(dtype).eps

    @cached_property
    def dtype(self) -> torch.dtype:
        """float32 where its rounding is far below the costs that matter."""
        step = max(1, len(self.x) // 100), max(1, len(self.y) // 100)
        typical = float(torch.cdist(self.x[:: step[0]], self.y[:: step[1]]).quantile(0.1))
        small = 50 * self.margin(torch.float32) <= typical**self.power
        exact = torch.get_float32_matmul_precision() == "highest"
        return torch.float32 if small and exact else torch.float64

    def costs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the costs between points, rounded."""
        x, y = x.to(self.dtype), y.to(self.dtype)
        out = torch.addmm((y * y).sum(1)[None, :], x, y.T, alpha=-2.0)
        out.add_((x * x).sum(1)[:, None]).clamp_(min=0.0)
        return out.sqrt_() if self.power == 1 else out

    def arc_costs(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Return the costs of some arcs, in float64."""
        from cellflow.transport.network import _arcs

        x, y = self.x.numpy(), self.y.numpy()
        out: np.ndarray = _arcs.true_costs(x, y, rows, cols, self.power == 1)
        return out

    @cached_property
    def _all_costs(self) -> Tensor:
        return self.costs(self.x, self.y)

    def tiles(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the cost matrix in blocks of rows, each with the row at which it begins."""
        n, m = len(self.x), len(self.y)
        if n * m <= KEPT:
            yield 0, self._all_costs.numpy()
            return
        step = max(1, TILE // m)
        for start in range(0, n, step):
            yield start, self.costs(self.x[start : start + step], self.y).numpy()


def whole_units(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masses of total one as whole numbers of equal totals: exactly if uniform."""
    if (a == a[0]).all() and (b == b[0]).all():
        common = math.gcd(len(a), len(b))
        return np.full(len(a), len(b) // common), np.full(len(b), len(a) // common)
    units = []
    for mass in (a, b):
        unit = np.rint(mass * 2.0**60).astype(np.int64)  # half an ulp of the least mass, or less
        unit[unit.argmax()] += 2**60 - unit.sum()
        units.append(unit)
    return units[0], units[1]


@dataclass(frozen=True, eq=False)
class Solution:
    """A plan as its entries, of total mass one, with the duals of its rows and columns.

    `value` is its cost, infinite where there is no plan; `bound` the value of the duals once made
    feasible, which no plan costs less than.
    """

    value: float
    bound: float
    rows: np.ndarray
    cols: np.ndarray
    mass: np.ndarray
    u: np.ndarray
    v: np.ndarray
    pivots: int
    rounds: int

    @property
    def certified(self) -> bool:
        """Whether the gap to the bound is no more than rounding."""
        rounding = ROUNDING * float(max(np.abs(self.u).max(), np.abs(self.v).max()))
        gap = self.value - self.bound
        return math.isfinite(gap) and gap <= TOLERANCE * self.value + rounding


class _Graph:
    """A sparse part of a problem and the simplex's tree on it, which grows from round to round."""

    def __init__(
        self, problem: Problem, arcs: tuple[np.ndarray, np.ndarray], duals: tuple[np.ndarray, ...]
    ) -> None:
        from cellflow.transport.network import _tree as simplex

        (u, v), n, m = duals, len(problem.x), len(problem.y)
        self.problem, self.n, self.pivots = problem, n, 0
        self.rows, self.cols = arcs
        self.heads = (self.cols + n).astype(np.int32)
        self.cost = problem.arc_costs(*arcs)
        self.tree = simplex.empty_tree(n + m + 1)
        order = np.argsort(self.cost - u[self.rows] - v[self.cols])
        units = np.concatenate([problem.a, problem.b])
        simplex.grow(self.tree, self.rows, self.heads, n, units, order)
        # Arcs through the root cost what the guess says (columns' may point either way) …
        sign = np.where(self.tree.up[n : n + m], -1.0, 1.0)
        self.through_root = np.concatenate([u, sign * v, [0.0]])

    @property
    def tolerance(self) -> float:
        """Reduced costs above minus this are rounding."""
        return 1e-14 * float(np.abs(self.cost).max())

    def add(self, rows: np.ndarray, cols: np.ndarray) -> None:
        """Add arcs."""
        self.rows, self.cols = np.concatenate([self.rows, rows]), np.concatenate([self.cols, cols])
        self.heads = (self.cols + self.n).astype(np.int32)
        self.cost = np.concatenate([self.cost, self.problem.arc_costs(rows, cols)])

    def optimise(self, extra: float) -> int:
        """Run the simplex; return the mass that still goes through the root, or −1 if stopped."""
        from cellflow.transport.network import _tree as simplex

        toll = self.through_root + extra  # … and a little more.
        simplex.price(self.tree, self.cost, toll)
        count = simplex.pivot(
            self.tree, self.rows, self.heads, self.cost,
            self.tolerance, BLOCK, self.problem.max_pivots - self.pivots,
        )  # fmt: skip
        simplex.price(self.tree, self.cost, toll)
        if count < 0:
            return -1
        self.pivots += count
        return int(self.tree.flow[self.tree.arc < 0].sum())

    @property
    def duals(self) -> tuple[np.ndarray, np.ndarray]:
        """The potentials as u and v."""
        potential = self.tree.potential
        return -potential[: self.n], potential[self.n : -1].copy()

    @property
    def value(self) -> float:
        """Cost of the plan, where no mass goes through the root."""
        arcs, share = self._flows()
        return float(share @ self.cost[arcs])

    def _flows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the arcs of the tree that are not the root's, and the share of mass on each."""
        real = self.tree.arc >= 0
        real[-1] = False  # the root has none
        return self.tree.arc[real], self.tree.flow[real] / float(self.problem.a.sum())

    def plan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, columns and mass of the entries of the plan, by rows and columns."""
        arcs, share = self._flows()
        rows, cols = self.rows[arcs].astype(np.int64), self.cols[arcs].astype(np.int64)
        order = np.lexsort([cols, rows])
        order = order[share[order] > 0]
        return rows[order], cols[order], share[order]


def solve_clouds(
    x: Tensor, y: Tensor, masses: tuple[Tensor, Tensor], *, power: int, max_pivots: int
) -> Solution | None:
    """Solve transport between clouds ``(n, d)`` and ``(m, d)`` near the origin, of any scale.

    Costs and duals are those of the clouds. None where the pivots did not suffice, or all points
    are at the origin.
    """
    x, y = x.cpu(), y.cpu()
    scale = float(max(x.abs().max(), y.abs().max())) * math.sqrt(x.shape[1])
    if scale == 0.0:
        return None
    a, b = whole_units(*(mass.cpu().numpy() for mass in masses))
    s = solve(Problem(x / scale, y / scale, a, b, power, max_pivots))
    if s is None:
        return None
    unit = scale**power
    return replace(s, value=s.value * unit, bound=s.bound * unit, u=s.u * unit, v=s.v * unit)


def solve(problem: Problem) -> Solution | None:
    """Solve a transport problem of at least `PICKED` rows and columns.

    The solution is to be judged by its gap. None if the pivots did not suffice.
    """
    u, v, extra = _guess(problem)
    graph = _Graph(problem, _pick(problem, u, v), (u, v))
    value, bound, rounds = math.inf, -math.inf, 0
    while rounds < ROUNDS:
        rounds += 1
        left = graph.optimise(extra)
        for _ in range(2 if rounds == 1 else 0):
            if left > 0:  # dear enough, the way through the root is left where another exists
                extra = min(8.0 * extra, DEAREST)
                left = graph.optimise(extra)
        if left < 0:
            return None
        u, v = graph.duals
        (rows, cols), bound = _violations(problem, u, v, 10 * graph.tolerance)
        if left == 0:
            value = graph.value
            if len(rows) == 0 or value - bound <= 1e-12 * value:
                break
        graph.add(rows, cols)
        if len(rows) < len(u) // 100:  # the graph has nearly all it needs
            extra = min(8.0 * extra, DEAREST)
    return Solution(value, bound, *graph.plan(), u, v, graph.pivots, rounds)


def _guess(problem: Problem) -> tuple[np.ndarray, np.ndarray, float]:
    """Return approximate duals and how far apart the reduced costs of a row are."""
    from cellflow.transport.network import _arcs

    u, v = _coarse(problem)
    rows, cols = _pick(problem, u, v)
    cost = problem.arc_costs(rows, cols)
    spread = cost - u[rows] - v[cols]
    width = max(float(np.quantile(spread, 0.9) - np.quantile(spread, 0.1)), 1e-12)
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    for level in (0.25, 0.25, 0.08, 0.08, 0.025, 0.025):
        _arcs.smooth(rows, cols, cost, a, b, u, v, level * width)
    return u, v, width


def _coarse(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Solve the problem for every eighth cell and extend its duals to all of them."""
    i, a = _thinned(problem.a)
    j, b = _thinned(problem.b)
    total = int(a.sum()), int(b.sum())
    x, y = problem.x[i], problem.y[j]
    part = replace(problem, x=x, y=y, a=a * total[1], b=b * total[0])
    found = None if len(i) * len(j) <= SMALL**2 else solve(part)
    u, v = _small(part) if found is None else (found.u, found.v)
    down = (problem.costs(part.x, problem.y).double() - torch.from_numpy(u)[:, None]).amin(0)
    across = (problem.costs(problem.x, part.y).double() - torch.from_numpy(v)).amin(1)
    return across.numpy(), down.numpy()


def _small(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    import ot

    cost = torch.cdist(problem.x, problem.y).pow(problem.power).numpy()
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    _, log = ot.emd(a, b, cost, numItermax=10_000_000, log=True)
    return log["u"], log["v"]


def _thinned(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw an eighth of the cells (at least some hundred) evenly by mass; how often each."""
    size = min(len(mass), max(len(mass) // COARSER, 200))
    level = np.cumsum(mass / mass.sum())
    drawn = np.searchsorted(level, (np.arange(size) + 0.5) / size).clip(max=len(mass) - 1)
    return np.unique(drawn, return_counts=True)


def _pick(problem: Problem, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the arcs that are cheapest, by reduced cost, for their row or their column."""
    from cellflow.transport.network import _arcs

    n, m = len(u), len(v)
    of_row, of_col = np.zeros((n, PICKED), np.int32), np.full((m, PICKED), -1, np.int32)
    dtype = np.float32 if problem.dtype == torch.float32 else np.float64
    worst = np.full((PICKED, m), np.inf, dtype)
    u, v = u.astype(dtype), v.astype(dtype)
    for first, tile in problem.tiles():
        _arcs.nearest(tile, first, u, v, of_row, of_col, worst)
    return _arcs.merge(of_row, of_col)


def _violations(
    problem: Problem, u: np.ndarray, v: np.ndarray, tolerance: float
) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Return arcs that violate the duals, and the value of the duals made feasible."""
    from cellflow.transport.network import _arcs

    n = len(u)
    size = float(max(np.abs(u).max(), np.abs(v).max(), 1.0))
    margin = size * problem.margin(problem.dtype)
    low = np.zeros(n)
    x, y, root = problem.x.numpy(), problem.y.numpy(), problem.power == 1
    best, of_col = np.full(len(v), -tolerance), np.full(len(v), -1, np.int32)
    limits, found = (margin, tolerance), []
    for first, tile in problem.tiles():
        rows, cols = arcs = tuple(np.empty(len(tile) * ADDED, np.int32) for _ in range(2))
        count = _arcs.violated(tile, first, (x, y, root), (u, v), limits, low, arcs, (best, of_col))
        found.append(rows[:count] * np.int64(len(v)) + cols[:count])
    # Cells with too much mass all want the same few partners: ask those with too little, too.
    (starved,) = np.nonzero(of_col >= 0)
    found.append(of_col[starved] * np.int64(len(v)) + starved)
    rows, cols = np.divmod(np.unique(np.concatenate(found)), len(v))
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    bound = float(a @ (u + low) + b @ v)
    return (rows.astype(np.int32), cols.astype(np.int32)), bound
