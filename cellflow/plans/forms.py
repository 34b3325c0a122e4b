"""Forms of a plan: a list of pairs, a matrix, a product of marginals. All answer the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from cellflow._random import shuffle, stratified
from cellflow._typing import Tensor
from cellflow.plans.plan import Plan

#: Entries of the array of differences between paired cells that is made at once.
DIFFERENCES = 2**22


@dataclass(frozen=True, eq=False, kw_only=True)
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
            rounds = -(-k // len(self.rows))
            turns = [shuffle(len(self.rows), generator) for _ in range(rounds)]
            pick = torch.cat(turns)[:k].to(self.rows.device)
        else:
            pick = stratified(self._cumulated, k, generator)
        return self.rows[pick], self.cols[pick]

    def _dense(self) -> Tensor:
        out = self.mass.new_zeros(self.size)
        return out.index_put_((self.rows, self.cols), self.mass, accumulate=True)


@dataclass(frozen=True, eq=False, kw_only=True)
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


@dataclass(frozen=True, eq=False, kw_only=True)
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


def pair_plan(
    pairs: tuple[Tensor, Tensor, Tensor],
    cells: tuple[Tensor, Tensor],
    masses: tuple[Tensor, Tensor],
    *,
    converged: bool = True,
) -> PairPlan:
    """Return the plan of rows, cols and mass, with its cost and the error of its marginals.

    Differences of cells of any precision are taken in float64.
    """
    rows, cols, mass = pairs
    step = max(1, DIFFERENCES // cells[0].shape[1])
    gaps = (
        cells[0][i].double() - cells[1][j].double()
        for i, j in zip(rows.split(step), cols.split(step))
    )
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
    )


def permutation_plan(cols: Tensor, *, cost: float, converged: bool) -> PairPlan:
    """Return the plan that pairs cell i with cell ``cols[i]``, all of equal mass."""
    n = len(cols)
    mass = torch.full((n,), 1.0 / n, dtype=torch.float64, device=cols.device)
    rows = torch.arange(n, device=cols.device)
    plan = PairPlan(rows=rows, cols=cols, mass=mass, size=(n, n), cost=cost, converged=converged)
    plan.__dict__["is_permutation"] = True  # a cached property, known without a search
    return plan


def l1_error(attained: Sequence[Tensor], asked: Sequence[Tensor]) -> float:
    """Return the larger of the two L1 distances between marginals."""
    gaps = [(p - q).abs().sum() for p, q in zip(attained, asked, strict=True)]
    return float(torch.stack(gaps).max())
