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
from dataclasses import dataclass, replace

import numpy as np
import torch

from cellflow._typing import Tensor
from cellflow.transport.network.problem import Problem, whole_units

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


@dataclass(frozen=True, eq=False)
class Solution:
    """A plan, its cost and its duals.

    Parameters
    ----------
    value
        Cost of the plan, an upper bound of the optimal cost; infinite where there is no plan.
    bound
        Value of the duals once made feasible: a lower bound.
    rows, cols, mass
        Entries of the plan, at most n + m − 1, of total mass one.
    u, v
        Duals, shapes ``(n,)`` and ``(m,)``.
    pivots, rounds
        Number of pivots and of rounds of column generation.
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
        self.cost = self._costs(*arcs)
        self.tree = simplex.empty_tree(n + m + 1)
        order = np.argsort(self.cost - u[self.rows] - v[self.cols])
        units = np.concatenate([problem.a, problem.b])
        simplex.grow(self.tree, self.rows, self.heads, n, units, order)
        # Arcs through the root cost what the guess says (columns' may point either way) …
        sign = np.where(self.tree.up[n : n + m], -1.0, 1.0)
        self.through_root = np.concatenate([u, sign * v, [0.0]])

    def _costs(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        from cellflow.transport.network import _arcs

        x, y = self.problem.x.numpy(), self.problem.y.numpy()
        out: np.ndarray = _arcs.true_costs(x, y, rows, cols, self.problem.power == 1)
        return out

    @property
    def tolerance(self) -> float:
        """Reduced costs above minus this are rounding."""
        return 1e-14 * float(np.abs(self.cost).max())

    def add(self, rows: np.ndarray, cols: np.ndarray) -> None:
        """Add arcs."""
        self.rows, self.cols = np.concatenate([self.rows, rows]), np.concatenate([self.cols, cols])
        self.heads = (self.cols + self.n).astype(np.int32)
        self.cost = np.concatenate([self.cost, self._costs(rows, cols)])

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
    cost = _arcs.true_costs(problem.x.numpy(), problem.y.numpy(), rows, cols, problem.power == 1)
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
    part = Problem(
        problem.x[i], problem.y[j], a * total[1], b * total[0], problem.power, problem.max_pivots
    )
    u, v = _small(part) if len(i) * len(j) <= SMALL**2 else _duals(part)
    down = (problem.costs(part.x, problem.y).double() - torch.from_numpy(u)[:, None]).amin(0)
    across = (problem.costs(problem.x, part.y).double() - torch.from_numpy(v)).amin(1)
    return across.numpy(), down.numpy()


def _duals(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    solution = solve(problem)
    return _small(problem) if solution is None else (solution.u, solution.v)


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
    found = []
    for first, tile in problem.tiles():
        rows, cols = (np.empty(len(tile) * ADDED, np.int32) for _ in range(2))
        count = _arcs.violated(
            tile, first, x, y, u, v, root, margin, tolerance, ADDED, low, rows, cols, best, of_col
        )
        found.append(rows[:count] * np.int64(len(v)) + cols[:count])
    # Cells with too much mass all want the same few partners: ask those with too little, too.
    (starved,) = np.nonzero(of_col >= 0)
    found.append(of_col[starved] * np.int64(len(v)) + starved)
    rows, cols = np.divmod(np.unique(np.concatenate(found)), len(v))
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    bound = float(a @ (u + low) + b @ v)
    return (rows.astype(np.int32), cols.astype(np.int32)), bound
