r"""Entropic transport between many cells: the kernel is made anew in tiles, never stored.

With rows :math:`i` of mass :math:`a_i` and scores
:math:`s_{ij} = x_i \cdot y_j / \varepsilon + h_j`, the plan is
:math:`P_{ij} = a_i\,\mathrm{softmax}_j(s_{ij})`: the Gibbs kernel of the half squared distance,
its rows right whatever :math:`h`. Sinkhorn's iteration,
:math:`h_j \leftarrow h_j + \log b_j - \log \sum_i P_{ij}`, is one pass over the tiles: a matrix
product and a softmax. Its fixed point is sought by Anderson acceleration (Walker and Ni, 2011,
"Anderson acceleration for fixed-point iterations", equation 2.2), safeguarded by the
concave semi-dual, which may not fall. The start is the solution between some of the cells,
extended to all columns by their best potential.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve

#: Entries of a tile: 8 MB, which a cache holds; 512 MB where there are thousands of cores.
ENTRIES, DEVICE_ENTRIES = 2**20, 2**26
#: Cells of either side between which the first guess is solved, and how exactly.
SAMPLE, SAMPLE_TOLERANCE, SAMPLE_ITERATIONS = 2048, 1e-3, 300
#: Steps that Anderson acceleration looks back, and the error of the columns from which it begins.
MEMORY, BEGIN = 10, 0.5


class Gibbs(NamedTuple):
    """Two clouds ``(n, d)`` and ``(m, d)``, float64 and centred, and a regularisation.

    `epsilon` is for the half squared distance, in squared data units.
    """

    x: Tensor
    y: Tensor
    epsilon: float

    @property
    def mean_cost(self) -> float:
        """Mean half squared distance between the clouds, each centred on its own mean."""
        return 0.5 * float(self.x.square().sum(1).mean() + self.y.square().sum(1).mean())

    def tiles(self) -> Iterator[slice]:
        """Cut the rows so that a tile of all columns has a bounded number of entries."""
        step = max(1, tile_entries(self.x) // len(self.y))
        for start in range(0, len(self.x), step):
            yield slice(start, start + step)

    def scores(self, rows: slice | Tensor, h: Tensor) -> Tensor:
        """Return the scores of some rows, shape ``(rows, m)``."""
        return torch.addmm(h[None, :], self.x[rows] / self.epsilon, self.y.T)


class TiledSolution(NamedTuple):
    """Column part `h` ``(m,)`` of the scores, L1 error of the columns, and passes made."""

    h: Tensor
    error: float
    iterations: int


def tile_entries(like: Tensor) -> int:
    """Entries of a tile on the device of `like`."""
    return ENTRIES if like.device.type == "cpu" else DEVICE_ENTRIES


def solve_tiled(
    gibbs: Gibbs, masses: tuple[Tensor, Tensor], *, tolerance: float, max_iter: int
) -> TiledSolution:
    """Solve entropic optimal transport without an ``(n, m)`` matrix, in at most `max_iter` passes.

    A pass takes ``O(n m d)`` time, and everything ``O((n + m)(d + 20))`` memory beside one tile.
    Of all iterates the one of least error is returned, also where that is above `tolerance`.
    """
    a, b = masses
    h, best = _start(gibbs, masses), TiledSolution(torch.zeros_like(b), math.inf, 0)
    points, steps = list[Tensor](), list[Tensor]()
    plain, value = h, -math.inf
    for k in range(1, max_iter + 1):
        reached, total = _pass(gibbs, a, h)
        new = total + float(torch.dot(b, h))
        error = float((reached - b).abs().sum())
        if not error < math.inf or new < value - 1e-13 * abs(value):
            h, points, steps, value = plain, [], [], -math.inf  # back to Sinkhorn's step
            continue
        value = new
        if error < best.error:
            best = TiledSolution(h, error, k)
        if error <= tolerance:
            break
        step = b.log() - reached.clamp(min=torch.finfo(b.dtype).tiny).log()
        plain = h + step
        if error < BEGIN:
            points, steps = [*points[-MEMORY:], h], [*steps[-MEMORY:], step]
        h = _anderson(points, steps, b) if len(points) > 1 else plain
    return best._replace(iterations=k)


def _start(gibbs: Gibbs, masses: tuple[Tensor, Tensor]) -> Tensor:
    """Solve between some cells, and return the best column part for all columns given theirs."""
    epsilon = gibbs.epsilon
    picks = [
        torch.linspace(0, len(z) - 1, min(SAMPLE, len(z)), dtype=z.dtype, device=z.device).long()
        for z in (gibbs.x, gibbs.y)
    ]
    x, y = gibbs.x[picks[0]], gibbs.y[picks[1]]
    few = [mass[pick] / mass[pick].sum() for mass, pick in zip(masses, picks, strict=True)]
    marginals = Marginals(Marginal(few[0]), Marginal(few[1]))
    problem = Problem(half_squared_distance(x, y), marginals, epsilon)
    s = solve(problem, tolerance=SAMPLE_TOLERANCE, max_iter=SAMPLE_ITERATIONS)
    f = torch.nan_to_num(s.f) / epsilon - (x * x).sum(1) / (2 * epsilon)
    back = Gibbs(gibbs.y, x, epsilon)
    sums = [torch.logsumexp(back.scores(rows, f), 1) for rows in back.tiles()]
    # ½|y|²/ε of the column's potential and of its costs cancel in h.
    return masses[1].log() - torch.cat(sums)


def _pass(gibbs: Gibbs, a: Tensor, h: Tensor) -> tuple[Tensor, float]:
    """Return the column sums of the plan, and the rows' part of the semi-dual."""
    reached, total = torch.zeros_like(h), 0.0
    for rows in gibbs.tiles():
        scores = gibbs.scores(rows, h)
        total -= float(torch.dot(a[rows], torch.logsumexp(scores, 1)))
        reached += a[rows] @ torch.softmax(scores, 1)
    return reached, total


def _anderson(points: list[Tensor], steps: list[Tensor], b: Tensor) -> Tensor:
    """Return the point where the steps, taken as linear, are smallest."""
    at, step = torch.stack(points), torch.stack(steps)
    moves, changes = at.diff(dim=0), step.diff(dim=0)
    weighted = changes * b.sqrt()
    gram = weighted @ weighted.T
    gram.diagonal().add_(1e-10 * gram.diagonal().sum())
    share = torch.linalg.solve(gram, weighted @ (step[-1] * b.sqrt()))
    return at[-1] + step[-1] - share @ (moves + changes)
