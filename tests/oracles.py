"""Pairs of which everything that is learned is known in closed form, and how to judge answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cellflow.paths import BrownianBridge, Pairs, PathPoint
from cellflow.toys import Gaussian, GaussianBridge

F64 = torch.float64
#: Standard errors allowed: exceeded once in 150,000 comparisons.
Z = 4.5


@dataclass(frozen=True, eq=False)
class Oracle:
    """Pairs of a Gaussian Schrödinger bridge whose log mass grows linearly in both ends.

    The rate of a pair ``(x0, x1)`` is ``slope · (x0, x1) + level``. The weight of a pair at a time
    is then the exponential of a linear form, which shifts the mean of every normal law in play
    and leaves its covariance: so the population, and the expectation of anything linear given the
    state, are those of normal laws at all times.
    """

    bridge: GaussianBridge
    start: float = 0.0
    slope: tuple[float, ...] = ()
    level: float = 0.0

    @property
    def path(self) -> BrownianBridge:
        return BrownianBridge(self.bridge.sigma)

    @property
    def stop(self) -> float:
        return self.start + self.bridge.span

    @property
    def _slope(self) -> torch.Tensor:
        dim = self.bridge.source.dim
        return torch.tensor(self.slope or (0.0,) * (2 * dim), dtype=F64)

    @property
    def _ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of ``(x0, x1)`` at the start."""
        b, c = self.bridge, self.bridge.cross_cov
        rows = [torch.cat([b.source.cov, c], 1), torch.cat([c.T, b.target.cov], 1)]
        return torch.cat([b.source.mean, b.target.mean]), torch.cat(rows)

    def pairs(self, n: int, seed: int = 0) -> Pairs:
        """Draw pairs; they grow only where there is a rate."""
        mean, cov = self._ends
        z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=F64)
        z = mean + z @ torch.linalg.cholesky(cov).T
        x0, x1 = z.tensor_split(2, 1)
        t0 = torch.full((n, 1), self.start, dtype=F64)
        growth = (z @ self._slope + self.level)[:, None]
        grows = bool(self.slope) or self.level != 0
        return Pairs(x0, x1, t0, t0 + self.bridge.span, growth if grows else None)

    def points(self, n: int, s: float, seed: int = 0) -> PathPoint:
        """Meet `n` pairs at the fraction `s`."""
        pairs = self.pairs(n, seed)
        noise = torch.randn(
            pairs.x0.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=F64
        )
        return self.path.at(pairs, torch.full((n, 1), s, dtype=F64), noise)

    def _fraction(self, t) -> float:
        first = float(torch.as_tensor(t, dtype=F64).reshape(-1)[0])
        return min(max((first - self.start) / self.bridge.span, 0.0), 1.0)

    def _known(self, t) -> tuple[torch.Tensor, ...]:
        """Mean and covariance of the weighted ends, and how the state follows from them."""
        s, (mean, cov) = self._fraction(t), self._ends
        eye = torch.eye(self.bridge.source.dim, dtype=F64)
        mix = torch.cat([(1 - s) * eye, s * eye], 1)
        mean = mean + cov @ self._slope * (s * self.bridge.span)
        state = mix @ cov @ mix.T + self.bridge.epsilon * s * (1 - s) * eye
        return mean, cov, mix, state

    def at(self, t: float) -> Gaussian:
        """Law of the population, by mass."""
        mean, _, mix, state = self._known(t)
        return Gaussian(mix @ mean, state)

    def mass(self, t: float) -> float:
        """Total mass relative to the start."""
        (mean, cov), r, time = self._ends, self._slope, self._fraction(t) * self.bridge.span
        log = time * (r @ mean + self.level) + 0.5 * time**2 * (r @ cov @ r)
        return float(log.exp())

    def _expect(self, form: torch.Tensor, t, x: torch.Tensor) -> torch.Tensor:
        """Expectation of ``form @ (x0, x1)`` given the state, weighted by mass."""
        mean, cov, mix, state = self._known(t)
        gain = torch.linalg.solve(state, mix @ cov @ form.T)
        return form @ mean + (x - mix @ mean) @ gain

    def mean_velocity(self, t, x: torch.Tensor) -> torch.Tensor:
        eye = torch.eye(self.bridge.source.dim, dtype=F64)
        return self._expect(torch.cat([-eye, eye], 1), t, x) / self.bridge.span

    def growth(self, t, x: torch.Tensor) -> torch.Tensor:
        return self._expect(self._slope[None], t, x)[:, 0] + self.level

    def score(self, t, x: torch.Tensor) -> torch.Tensor:
        return self.at(self._fraction(t) * self.bridge.span + self.start).score(x)

    def velocity(self, t, x: torch.Tensor) -> torch.Tensor:
        rate = 0.5 * self.bridge.sigma**2 * (1 - 2 * self._fraction(t))
        return self.mean_velocity(t, x) - rate * self.score(t, x)


@dataclass(frozen=True, eq=False)
class Chain:
    """Oracles of consecutive intervals as one; at a snapshot the interval that begins counts."""

    parts: tuple[Oracle, ...]

    @property
    def times(self) -> tuple[float, ...]:
        return (*(p.start for p in self.parts), self.parts[-1].stop)

    def part(self, t) -> Oracle:
        t = float(torch.as_tensor(t, dtype=F64).reshape(-1)[0])
        return next((p for p in reversed(self.parts) if p.start <= t), self.parts[0])

    def field(self, name: str) -> Callable:
        return lambda t, x: getattr(self.part(t), name)(t, x)

    def at(self, t: float) -> Gaussian:
        return self.part(t).at(t)

    def mass(self, t: float) -> float:
        total = 1.0
        for p in self.parts:
            total *= p.mass(min(max(t, p.start), p.stop))
        return total


def matched(law: Gaussian, n: int, seed: int) -> torch.Tensor:
    """Draw cells whose sample mean and covariance are those of `law` to the last digit."""
    z = torch.randn(n, law.dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    z = z - z.mean(0)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / n), z.T, upper=False).T
    return law.mean + z @ torch.linalg.cholesky(law.cov).T


def deviations(x: torch.Tensor, law: Gaussian, mass: torch.Tensor | None = None) -> torch.Tensor:
    """Mean and covariance of cells `x`, weighted by `mass`, less the law's, in standard errors."""
    centred = x.double() - law.mean
    second = centred[:, :, None] * centred[:, None, :] - law.cov
    parts = torch.cat([centred, second.flatten(1)], 1)
    return standardised(parts if mass is None else parts * mass[:, None])


def standardised(x: torch.Tensor) -> torch.Tensor:
    """Mean of independent rows of expectation zero, in its standard errors."""
    return x.sum(0) / x.square().sum(0).sqrt()


def distance(x: torch.Tensor, law: Gaussian, mass: torch.Tensor | None = None) -> float:
    """Largest error of a mean or covariance of cells, in deviations of the law's widest axis."""
    x = x.double()
    w = torch.full((len(x),), 1 / len(x), dtype=F64) if mass is None else mass / mass.sum()
    mean = w @ x
    cov = (x - mean).T @ ((x - mean) * w[:, None])
    size = float(law.cov.diagonal().max())
    off = (mean - law.mean).abs().max() / size**0.5, (cov - law.cov).abs().max() / size
    return max(map(float, off))


def relative_error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference over that of the exact field."""
    return float((ours - exact).norm() / exact.norm())
