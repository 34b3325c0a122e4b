"""Soft marginals: what a side of a plan asks for, and what deviating from it costs."""

from __future__ import annotations

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
