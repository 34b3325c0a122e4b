r"""Masses and labels carried along a chain of plans, in sparse form.

Each plan gives two transition matrices. With :math:`E_{ij} = P_{ij} \exp(s_i + t_j)` the mass that
a pair ends with (:math:`E = P` where mass is conserved), :math:`r_i = \sum_j P_{ij}` and
:math:`c_j = \sum_i E_{ij}`:

.. math:: F_{ij} = E_{ij} / r_i, \qquad B_{ij} = E_{ij} / c_j

:math:`F_{ij}` is the mass that one unit of cell i leaves at cell j: rows sum to the cell's growth
factor, 1 where mass is conserved. :math:`B_{ij}` is the share of cell i among the ancestors of
cell j: columns sum to one. Over several intervals the matrices multiply.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.plans.forms import PairPlan
from cellflow.plans.plan import DENSE_LIMIT


@dataclass(frozen=True, eq=False)
class Transitions:
    """Plans between consecutive snapshots, as a chain.

    Values at the cells of a time have shape ``(n,)`` or, for several at once, ``(n, k)``; answers
    are float64. Memory and time of every question are linear in the pairs; no matrix of all cells
    by all cells is made.

    The `times` of the snapshots are strictly increasing; `plans` has one for each interval, as
    pairs: see :func:`sparsify`.

    Examples
    --------
    >>> import torch
    >>> from cellflow.couplings import Exact
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> plan = Exact()(Snapshot(x, 0.0), Snapshot(x.flip(0), 2.0))
    >>> Transitions((0.0, 2.0), (plan,)).push([0.5, 0.5, 0.0], 0.0, 2.0).tolist()
    [0.0, 0.5, 0.5]
    """

    times: tuple[float, ...]
    plans: tuple[PairPlan, ...]

    def __post_init__(self) -> None:
        if len(self.plans) != len(self.times) - 1 or not self.plans:
            expected = "one for each interval between the times"
            raise ValueError(_checks.message("plans", f"{len(self.plans)} plans", expected))
        for k, (before, after) in enumerate(pairwise(self.plans)):
            if before.shape[1] != after.shape[0]:
                got = f"{before.shape[1]} and {after.shape[0]} cells at time {self.times[k + 1]:g}"
                raise ValueError(_checks.message("plans", got, "as many in both plans"))

    def push(self, mass: ArrayLike, start: float, end: float) -> Tensor:
        """Carry masses of the cells at `start` forward: where the descendants at `end` are.

        The total is that of `mass`, but for growth and for mass on cells that a plan leaves
        without a partner, which goes nowhere.
        """
        steps, out = self._steps(start, end), self._values(mass, start, "mass")
        for step in steps:
            out = step.scatter(out, step.forward)
        return out

    def pull(self, mass: ArrayLike, start: float, end: float) -> Tensor:
        """Carry masses of the cells at `end` back: where the ancestors at `start` are.

        The total is that of `mass`, but for mass on cells without an ancestor. What descendants
        weigh is shared out among their ancestors, whatever these weighed.
        """
        steps, out = self._steps(start, end), self._values(mass, end, "mass")
        for step in reversed(steps):
            out = step.gather(out, step.backward)
        return out

    def expect(self, values: ArrayLike, start: float, end: float) -> Tensor:
        """Mean over the descendants at `end` of each cell at `start` of `values` at `end`.

        Weighted with the mass of the descendants; 0 for a cell that has none.
        """
        steps, out = self._steps(start, end), self._values(values, end, "values")
        total = out.new_ones(len(out))
        for step in reversed(steps):
            out, total = step.gather(out, step.forward), step.gather(total, step.forward)
        return _divided(out, total)

    def recall(self, values: ArrayLike, start: float, end: float) -> Tensor:
        """Mean over the ancestors at `start` of each cell at `end` of `values` at `start`.

        0 for a cell without ancestors.
        """
        steps, out = self._steps(start, end), self._values(values, start, "values")
        total = out.new_ones(len(out))
        for step in steps:
            out, total = step.scatter(out, step.backward), step.scatter(total, step.backward)
        return _divided(out, total)

    def weights(self, time: float) -> Tensor:
        """Mass of each cell at `time`, of total one, as the plan from or to it has it."""
        k = self._position(time, "time")
        if k < len(self.plans):
            return self.plans[k].row_mass
        mass = self._all_steps[-1].ending
        return mass / mass.sum()

    def matrix(self, start: float, end: float, *, limit: int = DENSE_LIMIT) -> Any:
        """Transition matrix :math:`F` ``(n, m)`` from `start` to `end`, a scipy csr_matrix.

        It may store no more than `limit` entries: products of sparse matrices fill up.
        """
        steps = self._steps(start, end)
        out = steps[0].matrix
        for step in steps[1:]:
            nxt = step.matrix
            entries = int((nxt.indptr[out.indices + 1] - nxt.indptr[out.indices]).sum())
            if entries > _checks.count(limit, "limit"):
                got, remedy = f"up to {entries} entries", "Push or pull masses, or raise `limit`."
                raise ValueError(_checks.message("limit", got, f"at most {limit}", remedy))
            out = out @ nxt
        return out

    @cached_property
    def _all_steps(self) -> list[_Step]:
        return [_Step(plan) for plan in self.plans]

    def _steps(self, start: float, end: float) -> list[_Step]:
        first, last = self._position(start, "start"), self._position(end, "end")
        if first >= last:
            raise ValueError(_checks.message("end", f"{end:g}", f"a time after {start:g}"))
        return self._all_steps[first:last]

    def _position(self, time: float, name: str) -> int:
        time = _checks.number(time, name)
        if time not in self.times:
            known = ", ".join(f"{t:g}" for t in self.times)
            raise ValueError(_checks.message(name, f"{time:g}", f"one of {known}"))
        return self.times.index(time)

    def _values(self, values: ArrayLike, time: float, name: str) -> Tensor:
        k = self.times.index(time)
        n = self.plans[k].shape[0] if k < len(self.plans) else self.plans[-1].shape[1]
        out = _checks.as_numbers(values, name).to(self.plans[0].mass)
        if out.ndim not in (1, 2) or len(out) != n:
            expected = f"({n},) or ({n}, k), the cells at time {time:g}"
            raise ValueError(_checks.message(name, f"shape {tuple(out.shape)}", expected))
        if not bool(torch.isfinite(out).all()):
            raise ValueError(_checks.message(name, "NaN or infinite values", "finite numbers"))
        return out


class _Step:
    """One plan, with the weights of its pairs in either direction."""

    def __init__(self, plan: PairPlan) -> None:
        self.plan = plan
        ends = plan.mass
        if plan.source_growth is not None and plan.target_growth is not None:
            ends = ends * (plan.source_growth[plan.rows] + plan.target_growth[plan.cols]).exp()
        self.ending = ends.new_zeros(plan.shape[1]).index_add_(0, plan.cols, ends)
        self.forward = ends / plan.row_mass[plan.rows]
        self.backward = ends / self.ending[plan.cols]

    def scatter(self, values: Tensor, weights: Tensor) -> Tensor:
        """From source to target cells: ``weights.T @ values``."""
        return self._sum(values, weights, self.plan.rows, self.plan.cols, self.plan.shape[1])

    def gather(self, values: Tensor, weights: Tensor) -> Tensor:
        """From target to source cells: ``weights @ values``."""
        return self._sum(values, weights, self.plan.cols, self.plan.rows, self.plan.shape[0])

    @staticmethod
    def _sum(values: Tensor, weights: Tensor, at: Tensor, to: Tensor, size: int) -> Tensor:
        out = values.new_zeros(size, *values.shape[1:])
        if values.ndim == 1:
            return out.index_add_(0, to, weights * values[at])
        for k in range(values.shape[1]):  # a column at a time: memory stays that of the pairs
            out[:, k] = out.new_zeros(size).index_add_(0, to, weights * values[at, k])
        return out

    @property
    def matrix(self) -> Any:
        """The forward matrix, as scipy's."""
        from scipy import sparse

        parts = self.plan.rows, self.plan.cols, self.forward
        rows, cols, weights = (part.cpu().numpy() for part in parts)
        return sparse.csr_matrix((weights, (rows, cols)), shape=self.plan.shape)


def _divided(values: Tensor, total: Tensor) -> Tensor:
    """Return means from sums, 0 where nothing was summed."""
    total = total.clamp(min=torch.finfo(total.dtype).tiny)
    return values / (total if values.ndim == 1 else total[:, None])
