"""The Schrödinger bridge between two normal laws, in closed form (float64)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from cellflow import _checks, costs
from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.toys.gaussians import Gaussian, _regular, _same_dim, matrix_root


@dataclass(frozen=True, eq=False)
class GaussianBridge:
    r"""Bridge of the reference :math:`\sigma\,dW` between two normal laws.

    With :math:`s = t/\text{span}` and :math:`\varepsilon = \sigma^2\,\text{span}`, the process is
    normal with mean :math:`(1-s) m_0 + s m_1` and covariance

    .. math::
        S_t = (1-s)^2 S_0 + s^2 S_1 + s(1-s)(C + C^\top + \varepsilon I), \qquad
        C = \tfrac12\bigl(S_0^{1/2} (4 S_0^{1/2} S_1 S_0^{1/2} + \varepsilon^2 I)^{1/2}
        S_0^{-1/2} - \varepsilon I\bigr)

    (Bunne et al. 2023, theorem 3, with a span; the static plan is in Mallasto et al. 2022 and
    Janati et al. 2020). With ``sigma = 0`` it is the displacement interpolation. The laws `source`
    at time 0, not singular, and `target` at the time `span`, positive, are of equal dimension;
    `sigma` is the diffusion of the reference, in data units per square root of time, not negative.
    """

    source: Gaussian
    target: Gaussian
    span: float = 1.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        _checks.number(self.span, "span", low=0.0, open_low=True)
        _checks.number(self.sigma, "sigma", low=0.0)
        _same_dim(self.source, self.target)
        _regular(self.source)

    @property
    def epsilon(self) -> float:
        """Regularisation of the static plan for the cost ``½|x − y|²``."""
        return 0.0 if self.sigma == 0 else costs.brownian_epsilon(self.sigma, self.span)

    @cached_property
    def cross_cov(self) -> Tensor:
        """Covariance C of the ends: ``E (X_0 − m_0)(X_span − m_1)ᵀ``, shape ``(d, d)``."""
        root = matrix_root(self.source.cov)
        values, vectors = torch.linalg.eigh(root @ self.target.cov @ root)
        values = values.clamp(min=0.0)
        # ½(√(4k + ε²) − ε), written so that a large ε does not cancel every digit.
        eps = self.epsilon
        inner = 2.0 * values / ((4.0 * values + eps**2).sqrt() + eps).clamp(min=1e-300)
        return root @ (vectors * inner) @ vectors.T @ torch.linalg.inv(root)

    def at(self, t: float) -> Gaussian:
        """Law of the cells at time `t` in ``[0, span]``."""
        s = self._fraction(t)
        mean = (1.0 - s) * self.source.mean + s * self.target.mean
        cross = self.cross_cov
        eye = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
        noise = cross + cross.T + self.epsilon * eye
        ends = (1.0 - s) ** 2 * self.source.cov + s**2 * self.target.cov
        return Gaussian(mean, ends + s * (1.0 - s) * noise)

    def velocity(self, t: float | Tensor, x: Tensor) -> Tensor:
        r"""Probability-flow velocity at time `t` and cells ``(n, d)``, in the dtype of `x`.

        The drift :math:`E[X_{span} - X_t \mid X_t = x] / (\text{span} - t)` of the bridge less
        half of :math:`\sigma^2` times the score; it carries the law at 0 through every
        :meth:`at` without noise.
        """
        law, s = self.at(_time(t)), self._fraction(_time(t))
        cross, eps = self.cross_cov, self.epsilon
        slope = s * self.target.cov - (1.0 - s) * self.source.cov
        slope = slope + (1.0 - s) * cross.T - s * cross
        slope = slope + eps * (0.5 - s) * torch.eye(law.dim, dtype=slope.dtype, device=slope.device)
        pull = torch.linalg.solve(law.cov, (x.double() - law.mean).T)
        drift = (self.target.mean - self.source.mean)[None, :] + (slope @ pull).T
        return (drift / self.span).to(x.dtype)

    def score(self, t: float | Tensor, x: Tensor) -> Tensor:
        """Score of the law at time `t`, at cells ``(n, d)``, in the dtype of `x`."""
        return self.at(_time(t)).score(x)

    def dynamics(self) -> Dynamics:
        """Exact dynamics: velocity, score and sigma. Times must be the same for all cells."""
        return Dynamics(self.velocity, self.score, sigma=self.sigma)

    def _fraction(self, t: float) -> float:
        slack = 1e-6 * self.span  # a float32 solver's last time may round past the end
        t = _checks.number(t, "t", low=-slack, high=self.span + slack)
        return min(max(t / self.span, 0.0), 1.0)


def gaussian_bridge(
    source: Gaussian, target: Gaussian, *, span: float = 1.0, sigma: float = 1.0
) -> GaussianBridge:
    """Return the bridge of `sigma` dW from `source` to `target` over `span`: `GaussianBridge`."""
    return GaussianBridge(source, target, span, sigma)


def _time(t: float | Tensor) -> float:
    if not isinstance(t, torch.Tensor) or t.ndim == 0:
        return float(t)
    if not bool((t == t[0]).all()):
        raise ValueError(_checks.message("t", "different times", "one time for all cells"))
    return float(t[0])
