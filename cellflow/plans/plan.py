"""The plan: a joint distribution over pairs of cells of two snapshots, of total mass one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._html import shown
from cellflow._typing import Rng, Tensor

#: Entries that :meth:`Plan.dense` allocates without being asked for more.
DENSE_LIMIT = 25_000_000
#: Relative growth below which a source cell counts as one without descendants.
CHILDLESS = 0.05


def _rows(plan: Plan) -> list[tuple[str, object]]:
    """Names and values by which a plan is printed."""
    rows: list[tuple[str, object]] = [("cells", "{:,} × {:,}".format(*plan.shape))]
    rows += [("cost", plan.cost), ("converged", plan.converged)]
    rows += [("marginal error", plan.marginal_error)]
    rows += [("unmatched", f"{plan.unmatched:.1%}")] if plan.unmatched else []
    rows += [("without descendants", f"{plan.childless:.1%}")] if plan.childless else []
    return rows if plan.fallback is None else [*rows, ("fallback", plan.fallback)]


@shown(_rows)
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
        Why this is not the plan that was asked for: another solver made it, or none converged.
        None when it is.
    unmatched
        Share of the mass of a side that the plan leaves out on purpose, in [0, 1): cells without
        a partner have no pair.
    source_growth, target_growth
        Log growth factors of the cells, shapes ``(n,)`` and ``(m,)``, float64, both or neither:
        the pair ij starts with mass :math:`P_{ij}` and ends with
        :math:`P_{ij} \exp(\text{source}_i + \text{target}_j)`. The rows of a plan with growth
        are those of the source's weights, and the columns of what its pairs end with are the
        target's weights times the ratio of the two total masses. None: mass is conserved.
    lower_bound
        What no coupling of these masses costs less than, where that is known: a certificate.
    duals
        Potentials f and g of the cells, shapes ``(n,)`` and ``(m,)``, float64, where the solver has
        them: what a bit of mass more costs at a source and at a target cell, up to a constant
        between the two. For the costs c that pairs were found by, of an exact plan
        :math:`f_i + g_j \le c_{ij}`, with equality on its pairs; of an entropic one
        :math:`P_{ij} = a_i b_j \exp((f_i + g_j - c_{ij}) / \varepsilon)`, and of an unbalanced one
        likewise before its rows are scaled to the source's weights.
    """

    cost: float
    converged: bool = True
    marginal_error: float = 0.0
    fallback: str | None = None
    unmatched: float = 0.0
    source_growth: Tensor | None = None
    target_growth: Tensor | None = None
    lower_bound: float | None = None
    duals: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        given = self.source_growth, self.target_growth
        if given == (None, None):
            return
        for name, value, n in zip(
            ("source_growth", "target_growth"), given, self.shape, strict=True
        ):
            if value is None or tuple(value.shape) != (n,):
                got = "None" if value is None else f"shape {tuple(value.shape)}"
                raise ValueError(_checks.message(name, got, f"({n},)", "Give both or neither."))

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
    def relative_growth(self) -> Tensor:
        """Descendants' mass of each source cell relative to the mean cell's, shape ``(n,)``."""
        if self.source_growth is None:
            return torch.ones_like(self.row_mass)
        # The largest is taken out first: factors, unlike their ratios, could overflow.
        factor = (self.source_growth - self.source_growth.max()).exp()
        return factor / torch.dot(self.row_mass, factor) * self.row_mass.sum()

    @property
    def childless(self) -> float:
        """Share of the source's mass in cells without descendants.

        Those are the cells whose `relative_growth` is below 0.05 (`CHILDLESS`): their
        descendants carry less than a twentieth of what the mean cell's do.
        """
        if self.source_growth is None:
            return 0.0
        return float(self.row_mass[self.relative_growth < CHILDLESS].sum())

    @property
    def gap(self) -> float | None:
        """Share of the cost that a better plan might save, at most; None where it is not known."""
        if self.lower_bound is None:
            return None
        return max(0.0, 1.0 - self.lower_bound / self.cost) if self.cost > 0 else 0.0

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

        The `generator` may be a seed. Returns the indices of source and of target cells, two long
        tensors of shape ``(k,)`` on the device of the plan.
        """
        return self._draw(_checks.count(k, "k"), _checks.as_generator(generator))

    def dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """Return the plan as an ``(n, m)`` float64 matrix of at most `limit` entries."""
        n, m = self.shape
        if n * m > limit:
            got = f"a plan of {n} × {m} = {n * m} entries"
            remedy = "Sample pairs instead, or raise `limit`."
            raise ValueError(_checks.message("limit", got, f"at most {limit}", remedy))
        return self._dense()
