"""A problem of entropic transport, the marginals in it, and its solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from cellflow._typing import Tensor


class Marginal(NamedTuple):
    """Marginal of one problem or of each in a batch: masses, and the price of another marginal.

    `mass` ``(n,)`` or ``(B, n)`` is float64, of total one; `rho` the strength of the KL penalty in
    units of the cost, a number or a tensor ``(B, 1)``. An infinite number: the marginal is exact.
    """

    mass: Tensor
    rho: float | Tensor = math.inf

    @property
    def exact(self) -> bool:
        """Whether the marginal must be attained."""
        return isinstance(self.rho, float) and self.rho == math.inf

    # The methods below take potentials and `rho` in units of the regularisation.

    def potential(self, s: Tensor) -> Tensor:
        """Return the best potential, given the one that makes the marginal exact."""
        return s if self.exact else s * self.rho / (1 + self.rho)

    def slope(self, f: Tensor) -> Tensor:
        """Return the derivative of :meth:`potential` where it took the value `f`."""
        ones = torch.ones_like(f)
        return ones if self.exact else ones * self.rho / (1 + self.rho)

    def target(self, f: Tensor) -> Tensor:
        """Return the marginal that is best at the potential `f`."""
        return self.mass if self.exact else self.mass * torch.exp(-f / self.rho)

    def curvature(self, f: Tensor) -> Tensor:
        """Return minus the second derivative of the penalty's part of the dual."""
        return torch.zeros_like(f) if self.exact else self.target(f) / self.rho

    def gain(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the rise of the penalty's part of the dual, without cancellation."""
        if self.exact:
            return (self.mass * (new - old)).sum(-1)
        return (-self.rho * self.target(old) * torch.expm1((old - new) / self.rho)).sum(-1)


class Marginals(NamedTuple):
    """Marginals of rows and columns.

    The entropy may be `relative` to the product of the reference masses (the KL divergence from
    it), not plain: without effect on plans between exact marginals.
    """

    rows: Marginal
    cols: Marginal
    relative: bool = False

    @classmethod
    def stack(cls, problems: Sequence[Marginals]) -> Marginals:
        """Return a batch of marginals of one size, either all exact or none."""

        def stacked(sides: Sequence[Marginal]) -> Marginal:
            mass = torch.stack([side.mass for side in sides])
            if sides[0].exact:
                return Marginal(mass)
            return Marginal(mass, mass.new_tensor([[side.rho] for side in sides]))

        rows, cols = stacked([p.rows for p in problems]), stacked([p.cols for p in problems])
        return cls(rows, cols, problems[0].relative)

    @property
    def exact(self) -> bool:
        """Whether both marginals must be attained."""
        return self.rows.exact and self.cols.exact

    def subset(self, index: Tensor) -> Marginals:
        """Return the marginals of some problems of a batch."""
        return self._each(lambda mass: mass[index], lambda rho: rho[index])

    def scaled(self, epsilon: Tensor) -> Marginals:
        """Return the marginals of a batch with `rho` in units of the regularisation ``(B, 1)``."""
        return self._each(lambda mass: mass, lambda rho: rho / epsilon)

    def _each(self, mass: Callable[[Tensor], Tensor], rho: Callable[[Tensor], Tensor]) -> Marginals:
        rows, cols = (
            Marginal(mass(side.mass), rho(side.rho) if isinstance(side.rho, Tensor) else side.rho)
            for side in (self.rows, self.cols)
        )
        return self._replace(rows=rows, cols=cols)

    def reference(self, cost: Tensor, epsilon: float) -> Tensor:
        """Return the cost that includes the reference measure of the entropy at weight ε."""
        if not self.relative:
            return cost
        logs = self.rows.mass.log()[..., :, None] + self.cols.mass.log()[..., None, :]
        return cost - epsilon * logs


class Problem(NamedTuple):
    """A `cost` ``(n, m)``, float64, marginals, and a regularisation in units of the cost."""

    cost: Tensor
    marginals: Marginals
    epsilon: float

    def transposed(self) -> Problem:
        """Return the problem of the transposed plan."""
        sides = self.marginals._replace(rows=self.marginals.cols, cols=self.marginals.rows)
        return Problem(self.cost.T.contiguous(), sides, self.epsilon)


class Solution(NamedTuple):
    """Potentials of rows ``(n,)`` and columns ``(m,)`` in units of the cost, and their plan.

    The L1 `error` of the marginal that is not right by construction is relative to the mass of the
    plan; infinite, and the plan meaningless, if the regularisation asked for was not reached.
    """

    f: Tensor
    g: Tensor
    error: float
    iterations: int
    plan: Tensor

    def transposed(self) -> Solution:
        """Return the solution of the transposed problem."""
        return self._replace(f=self.g, g=self.f, plan=self.plan.T)
