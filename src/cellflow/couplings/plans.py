r"""Plans: how the cells of two snapshots are matched.

A plan is a joint distribution :math:`P` over pairs of cells, of total mass one. There are three
forms of it, and all answer the same questions: the marginals that were attained, how it went, and
a sample of pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.couplings._draws import shuffle, stratified
from cellflow.timecourse import Snapshot

#: Entries that :meth:`Plan.dense` allocates without being asked for more.
DENSE_LIMIT = 25_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan(ABC):
    r"""A joint distribution over pairs (source cell, target cell), of total mass one.

    Parameters
    ----------
    cost
        Transport cost :math:`\sum_{ij} P_{ij}\,\tfrac12\lVert x_i - y_j\rVert^2`, in squared data
        units.
    converged
        Whether the solver reached what it was asked for.
    marginal_error
        The larger of the two L1 distances between the marginals attained and those asked for
        (both of total one, so 0 is perfect and 2 the worst).
    fallback
        Why another solver than the one asked for made this plan; None when none did.
    """

    cost: float
    converged: bool = True
    marginal_error: float = 0.0
    fallback: str | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of source and of target cells."""

    @property
    @abstractmethod
    def row_mass(self) -> Tensor:
        """Mass that leaves each source cell, shape ``(n,)``, float64, total one."""

    @property
    @abstractmethod
    def col_mass(self) -> Tensor:
        """Mass that reaches each target cell, shape ``(m,)``, float64, total one."""

    @property
    @abstractmethod
    def partners(self) -> float:
        """Effective number of partners of a source cell.

        The mean, weighted by mass, of the exponential of each row's entropy: 1 for a one-to-one
        plan, m for the independent plan with m cells of equal mass.
        """

    @property
    def is_permutation(self) -> bool:
        """Whether the plan matches cells one to one, with equal masses."""
        return False

    @abstractmethod
    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `k` pairs."""

    @abstractmethod
    def _dense(self) -> Tensor:
        """Write out the matrix."""

    def sample(self, k: int, generator: Rng = None) -> tuple[Tensor, Tensor]:
        """Draw pairs of cells.

        A one-to-one plan is sampled without replacement: every pair is drawn ``floor(k / n)`` or
        ``ceil(k / n)`` times. Any other plan is sampled in proportion to mass by stratified draws
        (one uniform number in each of `k` equal intervals of the cumulated mass, in float64):
        pair ij is expected exactly ``k P_ij`` times, with a variance never above that of
        independent draws. Either way the order of the pairs is random.

        Parameters
        ----------
        k
            Number of pairs.
        generator
            Seed or generator.

        Returns
        -------
        Indices of source and of target cells, two long tensors of shape ``(k,)`` on the device of
        the plan.

        Raises
        ------
        TypeError, ValueError
            If `k` is not a positive integer.
        """
        return self._draw(_checks.count(k, "k"), _checks.as_generator(generator))

    def dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """Return the plan as an ``(n, m)`` float64 matrix.

        Parameters
        ----------
        limit
            Largest number of entries to allocate.

        Raises
        ------
        ValueError
            If the matrix would have more than `limit` entries.
        """
        n, m = self.shape
        if n * m > limit:
            raise ValueError(
                _checks.message(
                    "limit",
                    f"a plan of {n} × {m} = {n * m} entries",
                    f"at most {limit}",
                    "Sample pairs instead, or raise `limit`.",
                )
            )
        return self._dense()


#: Any callable will do; the members of :mod:`cellflow.couplings` are frozen dataclasses.
Coupling: TypeAlias = Callable[[Snapshot, Snapshot], Plan]


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
        """Number of source and of target cells."""
        return self.size

    @cached_property
    def row_mass(self) -> Tensor:
        """Mass that leaves each source cell, shape ``(n,)``."""
        return self.mass.new_zeros(self.size[0]).index_add_(0, self.rows, self.mass)

    @cached_property
    def col_mass(self) -> Tensor:
        """Mass that reaches each target cell, shape ``(m,)``."""
        return self.mass.new_zeros(self.size[1]).index_add_(0, self.cols, self.mass)

    @cached_property
    def is_permutation(self) -> bool:
        """Whether the plan matches cells one to one, with equal masses."""
        n, m = self.size
        if not n == m == len(self.rows) or not bool((self.mass == self.mass[0]).all()):
            return False
        return all(len(torch.unique(index)) == n for index in (self.rows, self.cols))

    @cached_property
    def partners(self) -> float:
        """Effective number of partners of a source cell."""
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
        """Number of source and of target cells."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @cached_property
    def row_mass(self) -> Tensor:
        """Mass that leaves each source cell, shape ``(n,)``."""
        return self.matrix.sum(1)

    @cached_property
    def col_mass(self) -> Tensor:
        """Mass that reaches each target cell, shape ``(m,)``."""
        return self.matrix.sum(0)

    @cached_property
    def partners(self) -> float:
        """Effective number of partners of a source cell."""
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
        Masses of source and target cells, shapes ``(n,)`` and ``(m,)``, float64, each of total
        one.
    """

    a: Tensor
    b: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Number of source and of target cells."""
        return len(self.a), len(self.b)

    @property
    def row_mass(self) -> Tensor:
        """Mass that leaves each source cell, shape ``(n,)``."""
        return self.a

    @property
    def col_mass(self) -> Tensor:
        """Mass that reaches each target cell, shape ``(m,)``."""
        return self.b

    @cached_property
    def partners(self) -> float:
        """Effective number of partners of a source cell."""
        return float(torch.special.entr(self.b).sum().exp())

    def _draw(self, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = stratified(self.a.cumsum(0), k, generator)
        return rows, stratified(self.b.cumsum(0), k, generator)

    def _dense(self) -> Tensor:
        return self.a[:, None] * self.b[None, :]
