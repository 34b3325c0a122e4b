"""Soft marginals: what a side of a plan asks for, and what deviating from it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from cellflow._typing import Tensor


class Side(NamedTuple):
    """A marginal: the mass it refers to, and what deviating from it costs.

    Parameters
    ----------
    mass
        Reference mass, shape ``(n,)``, float64, positive, of total one.
    rho
        Strength of the penalty, in units of the cost; infinite for an exact marginal.
    clipped
        Whether the penalty is the total variation, not KL.
    """

    mass: Tensor
    rho: float
    clipped: bool

    @property
    def exact(self) -> bool:
        """Whether the marginal must be attained."""
        return self.rho == float("inf")

    def potential(self, s: Tensor, epsilon: float) -> Tensor:
        """Return the best potential, given the one that makes the marginal exact."""
        if self.exact:
            return s
        if self.clipped:
            return s.clamp(-self.rho, self.rho)
        return s * (self.rho / (self.rho + epsilon))

    def slope(self, f: Tensor, epsilon: float) -> Tensor:
        """Return the derivative of :meth:`potential` where it took the value `f`."""
        if self.exact:
            return torch.ones_like(f)
        if self.clipped:
            return (f.abs() < self.rho).to(f)
        return torch.full_like(f, self.rho / (self.rho + epsilon))

    def asked(self, f: Tensor) -> Tensor:
        """Return the marginal that the potential `f` asks for."""
        if self.exact or self.clipped:
            return self.mass
        return self.mass * torch.exp(-f / self.rho)

    def gain(self, old: Tensor, new: Tensor) -> Tensor:
        """Return how much the penalty's part of the dual rises, without cancellation."""
        if self.exact or self.clipped:
            return torch.dot(self.mass, new - old)
        return -self.rho * torch.dot(self.asked(old), torch.expm1((old - new) / self.rho))

    def curvature(self, f: Tensor) -> Tensor:
        """Return minus the second derivative of the penalty's part of the dual."""
        if self.exact or self.clipped:
            return torch.zeros_like(f)
        return self.asked(f) / self.rho

    def lack(self, f: Tensor, attained: Tensor) -> Tensor:
        """Return what the marginal lacks, zero where a bound on the potential excuses it."""
        lack = self.asked(f) - attained
        if self.clipped and not self.exact:
            excused = ((f >= self.rho) & (lack > 0)) | ((f <= -self.rho) & (lack < 0))
            lack = lack.masked_fill(excused, 0.0)
        return lack


class Sides(NamedTuple):
    """Marginals of a batch: see :class:`~cellflow.transport.entropic.marginals.Side`.

    Parameters
    ----------
    mass
        Reference masses, shape ``(B, n)``, float64, positive, each row of total one.
    rho
        Strengths of the penalties, in units of the cost, shape ``(B,)``; infinite where `exact`.
    clipped
        Whether the penalty is the total variation, not KL.
    exact
        Whether the marginals must be attained.
    """

    mass: Tensor
    rho: Tensor
    clipped: bool
    exact: bool

    def subset(self, index: Tensor) -> Sides:
        """Return the sides of some problems."""
        return self._replace(mass=self.mass[index], rho=self.rho[index])

    @classmethod
    def of(cls, sides: Sequence[Side]) -> Sides:
        """Make a batch of sides of one size and kind."""
        mass = torch.stack([side.mass for side in sides])
        rho = torch.tensor([side.rho for side in sides], dtype=mass.dtype, device=mass.device)
        return cls(mass, rho, sides[0].clipped, sides[0].exact)

    def units(self, epsilon: Tensor) -> Sides:
        """Return the sides with strengths in units of the regularisation."""
        return self._replace(rho=self.rho / epsilon)

    def potential(self, s: Tensor) -> Tensor:
        """Return the best potential, given the one that makes the marginal exact."""
        if self.exact:
            return s
        rho = self.rho[:, None]
        return torch.minimum(torch.maximum(s, -rho), rho) if self.clipped else s * rho / (1 + rho)

    def slope(self, f: Tensor) -> Tensor:
        """Return the derivative of :meth:`potential` where it took the value `f`."""
        if self.exact:
            return torch.ones_like(f)
        rho = self.rho[:, None]
        return (f.abs() < rho).to(f) if self.clipped else (rho / (1 + rho)).expand_as(f)

    def asked(self, f: Tensor) -> Tensor:
        """Return the marginal that the potential `f` asks for."""
        if self.exact or self.clipped:
            return self.mass
        return self.mass * torch.exp(-f / self.rho[:, None])

    def curvature(self, f: Tensor) -> Tensor:
        """Return minus the second derivative of the penalty's part of the dual."""
        if self.exact or self.clipped:
            return torch.zeros_like(f)
        return self.asked(f) / self.rho[:, None]

    def held(self, f: Tensor, lack: Tensor) -> Tensor:
        """Whether a bound holds the potential where it is."""
        if self.exact or not self.clipped:
            return torch.zeros_like(f, dtype=torch.bool)
        return (f.abs() >= self.rho[:, None]) & (lack == 0)

    def clip(self, f: Tensor) -> Tensor:
        """Return the potential within its bounds."""
        return self.potential(f) if self.clipped else f

    def lack(self, f: Tensor, attained: Tensor) -> Tensor:
        """Return what the marginal lacks, zero where a bound on the potential excuses it."""
        lack = self.asked(f) - attained
        if self.clipped and not self.exact:
            rho = self.rho[:, None]
            excused = ((f >= rho) & (lack > 0)) | ((f <= -rho) & (lack < 0))
            lack = lack.masked_fill(excused, 0.0)
        return lack

    def gain(self, old: Tensor, new: Tensor) -> Tensor:
        """Return how much the penalty's part of the dual rises, shape ``(B,)``."""
        if self.exact or self.clipped:
            return (self.mass * (new - old)).sum(1)
        rho = self.rho[:, None]
        return (-rho * self.asked(old) * torch.expm1((old - new) / rho)).sum(1)
