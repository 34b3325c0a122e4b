"""Problems with exact answers: normal laws, the bridge between them, cells in a circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from cellflow import _checks, costs
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics
from cellflow.timecourse import TimeCourse


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal law of `mean` ``(d,)`` and `cov` ``(d, d)``, symmetric and positive semidefinite.

    Numbers of any kind, kept as float64 tensors.
    """

    mean: Tensor
    cov: Tensor

    if TYPE_CHECKING:  # arrays are converted

        def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None: ...

    def __post_init__(self) -> None:
        mean = _checks.as_numbers(self.mean, "mean").double()
        if mean.ndim != 1:
            raise ValueError(_checks.message("mean", f"shape {tuple(mean.shape)}", "shape (d,)"))
        _checks.as_cells(mean[None], "mean")
        cov = _checks.as_cells(_checks.as_numbers(self.cov, "cov").double(), "cov", dim=len(mean))
        if cov.shape[0] != cov.shape[1]:
            expected = f"shape ({len(mean)}, {len(mean)})"
            raise ValueError(_checks.message("cov", f"shape {tuple(cov.shape)}", expected))
        size = float(cov.abs().max())
        if float((cov - cov.T).abs().max()) > 1e-6 * size:
            raise ValueError(_checks.message("cov", "an asymmetric matrix", "a symmetric one"))
        cov = (cov + cov.T) / 2
        lowest = float(torch.linalg.eigvalsh(cov)[0])
        if lowest < -1e-6 * size:
            got = f"a lowest eigenvalue of {lowest:g}"
            raise ValueError(_checks.message("cov", got, "a positive semidefinite matrix"))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "cov", cov.to(mean.device))

    @property
    def dim(self) -> int:
        """Dimension d."""
        return len(self.mean)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log-density at cells ``(n, d)``, in the dtype of `x`."""
        centred = x.double() - self.mean
        return -torch.linalg.solve(self.cov, centred.T).T.to(x.dtype)

    def sample(self, n: int, *, generator: Rng = None) -> Tensor:
        """Draw `n` cells ``(n, d)``, in float64, as the seed or `generator` says."""
        rng, n = _checks.as_generator(generator), _checks.count(n, "n")
        noise = torch.randn(n, self.dim, generator=rng, dtype=torch.float64, device=rng.device)
        return self.mean.to(noise) + noise @ matrix_root(self.cov.to(noise)).T


def matrix_root(cov: Tensor) -> Tensor:
    """Symmetric square root of `cov`, a positive semidefinite ``(d, d)`` matrix."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T


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
        if self.source.dim != self.target.dim:
            got, expected = f"{self.target.dim} dimensions", f"{self.source.dim} as in `source`"
            raise ValueError(_checks.message("target", got, expected))
        values = torch.linalg.eigvalsh(self.source.cov)
        if float(values[0]) <= 1e-12 * float(values[-1]):
            got, expected = "a singular covariance", "a positive definite one"
            raise ValueError(_checks.message("source", got, expected))

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


def _time(t: float | Tensor) -> float:
    if not isinstance(t, torch.Tensor) or t.ndim == 0:
        return float(t)
    if not bool((t == t[0]).all()):
        raise ValueError(_checks.message("t", "different times", "one time for all cells"))
    return float(t[0])


def cycle(
    n: int, times: Sequence[float], *, period: float = 1.0, noise: float = 0.0, generator: Rng = 0
) -> TimeCourse:
    """Draw a course of cells that go round in the plane, with their velocities, in float64.

    At time zero they are normal about ``(3, 0)`` with a standard deviation of 0.3. Seen half a
    `period` apart or more, the shortest way from one snapshot to the next is the wrong one.

    There are `n` cells at each of the increasing `times`, other ones each time. A turn, to the
    left, takes one `period`; below zero it is to the right. Errors of velocities have the standard
    deviation `noise`, relative to the mean speed; they and the cells follow a seed or `generator`.
    """
    rng, noise = _checks.as_generator(generator), _checks.number(noise, "noise", low=0.0)
    n, period = _checks.count(n, "n"), _checks.number(period, "period")
    if period == 0:
        raise ValueError(_checks.message("period", "0", "the time of a turn"))
    speed = 2 * math.pi / period
    turn = speed * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    centre = torch.tensor([3.0, 0.0], dtype=torch.float64)
    xs, velocities = [], []
    for time in times:
        z, error = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
        xs.append((centre + 0.3 * z) @ torch.linalg.matrix_exp(float(time) * turn).T)
        velocities.append(xs[-1] @ turn.T + noise * 3 * abs(speed) * error)
    return TimeCourse.from_arrays(xs, times, velocities=velocities, unit="period")
