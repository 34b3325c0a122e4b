"""Forms of a plan: a list of pairs, a matrix, a product of marginals, potentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from cellflow._random import shuffle, stratified
from cellflow._typing import Tensor
from cellflow.plans.plan import Plan
from cellflow.transport.entropic.tiled import Gibbs, tile_entries

#: Entries of the array of differences between paired cells that is made at once.
DIFFERENCES = 2**22
#: Potentials of source and of target cells.
Duals: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PairPlan(Plan):
    """A plan that lists its pairs; each pair at most once.

    Parameters
    ----------
    rows, cols
        Indices of source and target cells, long tensors of shape ``(p,)``.
    mass
        Mass of each pair, shape ``(p,)``, float64, positive, total one.
    size
        Number of source and of target cells.
    """

    rows: Tensor
    cols: Tensor
    mass: Tensor
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @cached_property
    def row_mass(self) -> Tensor:
        return self.mass.new_zeros(self.size[0]).index_add_(0, self.rows, self.mass)

    @cached_property
    def col_mass(self) -> Tensor:
        return self.mass.new_zeros(self.size[1]).index_add_(0, self.cols, self.mass)

    @cached_property
    def is_permutation(self) -> bool:
        n, m = self.size
        if not n == m == len(self.rows) or not bool((self.mass == self.mass[0]).all()):
            return False
        return all(len(torch.unique(index)) == n for index in (self.rows, self.cols))

    @cached_property
    def partners(self) -> float:
        if self.is_permutation:
            return 1.0
        terms = torch.special.entr(self.mass / self.row_mass[self.rows])
        entropy = self.mass.new_zeros(self.size[0]).index_add_(0, self.rows, terms)
        return float((self.row_mass * entropy.exp()).sum() / self.row_mass.sum())

    @cached_property
    def _cumulated(self) -> Tensor:
        return self.mass.cumsum(0)

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.is_permutation:
            turns = [shuffle(len(self.rows), generator) for _ in range(-(-k // len(self.rows)))]
            pick = torch.cat(turns)[:k].to(self.rows.device)
        else:
            pick = stratified(self._cumulated, k, generator)
        return self.rows[pick], self.cols[pick]

    def _dense(self) -> Tensor:
        out = self.mass.new_zeros(self.size)
        return out.index_put_((self.rows, self.cols), self.mass, accumulate=True)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class DensePlan(Plan):
    """A plan that holds the whole matrix.

    Parameters
    ----------
    matrix
        Mass of every pair, shape ``(n, m)``, float64, nonnegative, total one.
    """

    matrix: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    @cached_property
    def row_mass(self) -> Tensor:
        return self.matrix.sum(1)

    @cached_property
    def col_mass(self) -> Tensor:
        return self.matrix.sum(0)

    @cached_property
    def partners(self) -> float:
        rows = self.matrix / self.row_mass.clamp(min=torch.finfo(self.matrix.dtype).tiny)[:, None]
        entropy = torch.special.entr(rows).sum(1)
        return float((self.row_mass * entropy.exp()).sum() / self.row_mass.sum())

    @cached_property
    def _cumulated(self) -> Tensor:
        return self.matrix.flatten().cumsum(0)

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pick = stratified(self._cumulated, k, generator)
        m = self.matrix.shape[1]
        return torch.div(pick, m, rounding_mode="floor"), pick % m

    def _dense(self) -> Tensor:
        return self.matrix


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ProductPlan(Plan):
    """The independent plan ``a ⊗ b``, never written out.

    Parameters
    ----------
    a, b
        Masses of source ``(n,)`` and target cells ``(m,)``, float64, each of total one.
    """

    a: Tensor
    b: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    @property
    def row_mass(self) -> Tensor:
        return self.a

    @property
    def col_mass(self) -> Tensor:
        return self.b

    @cached_property
    def partners(self) -> float:
        return float(torch.special.entr(self.b).sum().exp())

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = stratified(self.a.cumsum(0), k, generator)
        return rows, stratified(self.b.cumsum(0), k, generator)

    def _dense(self) -> Tensor:
        return self.a[:, None] * self.b[None, :]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PotentialPlan(Plan):
    r"""Plan :math:`P_{ij} = a_i\,\mathrm{softmax}_j(x_i \cdot y_j / \varepsilon + h_j)`.

    Takes ``O((n + m) d)`` memory. Rows are computed in tiles of bounded size where they are asked
    for: `k` pairs cost ``O(k m d)`` time, at most ``O(n m d)``.

    Parameters
    ----------
    gibbs
        The clouds and the regularisation.
    a
        Mass of each source cell, shape ``(n,)``, float64, of total one.
    h
        Column part of the scores, shape ``(m,)``.
    reached
        Mass that reaches each target cell, shape ``(m,)``.
    effective
        Effective number of partners of a source cell.
    """

    gibbs: Gibbs
    a: Tensor
    h: Tensor
    reached: Tensor
    effective: float

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.h)

    @property
    def row_mass(self) -> Tensor:
        return self.a

    @property
    def col_mass(self) -> Tensor:
        return self.reached

    @property
    def partners(self) -> float:
        return self.effective

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # One uniform number in each stratum of the cumulated mass, as from the matrix row by row:
        # the row it falls into, and how far into it.
        uniform = torch.rand(k, generator=generator, device=generator.device, dtype=torch.float64)
        order = torch.randperm(k, generator=generator, device=generator.device)
        level = ((order + uniform) / k).to(self.a.device)
        ends = self.a.cumsum(0)
        level, back = torch.sort(level * ends[-1])
        below = torch.nextafter(ends[-1], torch.zeros_like(ends[-1]))
        rows = torch.searchsorted(ends, torch.minimum(level, below), right=True)
        part = (level - (ends - self.a)[rows]) / self.a[rows]
        cols = torch.empty_like(rows)
        which, inverse = torch.unique_consecutive(rows, return_inverse=True)
        step = max(1, tile_entries(self.a) // len(self.h))
        for start in range(0, len(which), step):
            now = (inverse >= start) & (inverse < start + step)
            cols[now] = self._within(which[start : start + step], inverse[now] - start, part[now])
        place = torch.empty_like(back)
        place[back] = torch.arange(k, device=back.device)
        return rows[place], cols[place]

    def _within(self, rows: Tensor, tile_row: Tensor, part: Tensor) -> Tensor:
        """Return the columns where the cumulated mass of some rows passes a part of it."""
        m = len(self.h)
        ends = torch.softmax(self.gibbs.scores(rows, self.h), 1).cumsum(1)
        ends /= ends[:, -1:].clone()
        # Row after row on one line, so that a row may be asked for more than once.
        line = (ends + torch.arange(len(rows), device=ends.device)[:, None]).flatten()
        inside = part.clamp(0.0, 1.0 - 1e-12)
        found = torch.searchsorted(line, tile_row + inside, right=True)
        return (found - tile_row * m).clamp(0, m - 1)

    def _dense(self) -> Tensor:
        tiles = [torch.softmax(self.gibbs.scores(r, self.h), 1) for r in self.gibbs.tiles()]
        return self.a[:, None] * torch.cat(tiles)


def pair_plan(
    pairs: tuple[Tensor, Tensor, Tensor],
    cells: tuple[Tensor, Tensor],
    masses: tuple[Tensor, Tensor],
    *,
    duals: Duals | None = None,
    converged: bool = True,
) -> PairPlan:
    """Return the plan of rows, cols and mass, with its cost and the error of its marginals.

    Differences of cells of any precision are taken in float64.
    """
    rows, cols, mass = pairs
    step = max(1, DIFFERENCES // cells[0].shape[1])
    parts = zip(rows.split(step), cols.split(step))
    gaps = (cells[0][i].double() - cells[1][j].double() for i, j in parts)
    squared = torch.cat([(gap * gap).sum(1) for gap in gaps])
    attained = [
        torch.zeros_like(asked).index_add_(0, index, mass)
        for index, asked in zip((rows, cols), masses, strict=True)
    ]
    return PairPlan(
        rows=rows,
        cols=cols,
        mass=mass,
        size=(len(masses[0]), len(masses[1])),
        cost=0.5 * float(torch.dot(mass, squared)),
        converged=converged,
        marginal_error=l1_error(attained, masses),
        duals=duals,
    )


def permutation_plan(cols: Tensor, *, cost: float, duals: Duals, converged: bool) -> PairPlan:
    """Return the plan that pairs cell i with cell ``cols[i]``, all of equal mass."""
    n = len(cols)
    mass = torch.full((n,), 1.0 / n, dtype=torch.float64, device=cols.device)
    rows = torch.arange(n, device=cols.device)
    facts = {"cost": cost, "duals": duals, "converged": converged}
    plan = PairPlan(rows=rows, cols=cols, mass=mass, size=(n, n), **facts)  # type: ignore[arg-type]
    plan.__dict__["is_permutation"] = True  # a cached property, known without a search
    return plan


def potential_plan(
    gibbs: Gibbs, masses: tuple[Tensor, Tensor], h: Tensor, *, shift: Tensor, fallback: str | None
) -> PotentialPlan:
    r"""Return the plan of `h`: one pass for its cost, its columns and its partners.

    The cost is :math:`\tfrac12|x_i + \text{shift} - y_j|^2`.
    """
    a, b = masses
    x, y, epsilon = gibbs
    reached, effective, inner, f = torch.zeros_like(h), 0.0, 0.0, torch.empty_like(a)
    for rows in gibbs.tiles():
        scores = gibbs.scores(rows, h)
        share = torch.softmax(scores, 1)
        # Where a share underflows, its score is finite: nothing times something.
        mean, total = (share * scores).sum(1), torch.logsumexp(scores, 1)
        entropy, f[rows] = total - mean, -epsilon * total
        effective += float(torch.dot(a[rows], entropy.exp()))
        inner += epsilon * float(torch.dot(a[rows], mean - share @ h))
        reached += a[rows] @ share
    halves = (z.square().sum(1) / 2 for z in (x, y))
    duals = f + next(halves), epsilon * (h - b.log()) + next(halves)
    moved = x + shift
    cost = 0.5 * float(a @ (moved * moved).sum(1) + reached @ (y * y).sum(1))
    return PotentialPlan(
        cost=max(cost - inner - float(shift @ (y.T @ reached)), 0.0),
        converged=fallback is None,
        fallback=fallback,
        marginal_error=float((reached - b).abs().sum()),
        gibbs=gibbs,
        a=a,
        h=h,
        reached=reached,
        effective=effective / float(a.sum()),
        duals=moved_duals(duals, (x, y), shift),
    )


def moved_duals(duals: Duals, cells: tuple[Tensor, Tensor], shift: Tensor) -> Duals:
    """Return duals of the costs ``½|x + shift − y|²``, given those of ``½|x − y|²``."""
    (f, g), (x, y) = duals, cells
    return f + ((x + shift / 2) * shift).sum(-1), g - (y * shift).sum(-1)


def l1_error(attained: Sequence[Tensor], asked: Sequence[Tensor]) -> float:
    """Return the larger of the two L1 distances between marginals."""
    gaps = [(p - q).abs().sum() for p, q in zip(attained, asked, strict=True)]
    return float(torch.stack(gaps).max())
