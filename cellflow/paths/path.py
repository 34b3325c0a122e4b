"""The path: where a pair of cells is met on its way, and how fast it moves there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch

from cellflow import _checks
from cellflow._registry import Registry
from cellflow._typing import Tensor
from cellflow.costs import Cost


@dataclass(frozen=True, eq=False)
class Pairs:
    """Paired cells of one or several intervals.

    The cells `x0` and `x1` are of shape ``(n, d)``, the real times of their snapshots, `t0` and
    `t1`, of ``(n, 1)``, as all numbers of a pair. The mean rate of its log mass per unit of time is
    `growth`, None where mass stays, and `mean_growth` that of the whole population over the
    interval, from which weights leave it out, None for zero. Velocities of the cells at both ends,
    `rate0` and `rate1` ``(n, d)``, are for paths that bend, and `way` ``(n, p, d)``, the
    coefficients of s², s³, … of the way on which a reference drift carries the source, for those
    relative to one. The code of the pair's condition is `condition`, if there are any.
    """

    x0: Tensor
    x1: Tensor
    t0: Tensor
    t1: Tensor
    growth: Tensor | None = None
    rate0: Tensor | None = None
    rate1: Tensor | None = None
    mean_growth: Tensor | None = None
    condition: Tensor | None = None
    way: Tensor | None = None

    @property
    def span(self) -> Tensor:
        """Time between the two snapshots, shape ``(n, 1)``."""
        return (self.t1 - self.t0).to(self.x0)

    def part(self, k: int, n: int) -> Pairs:
        """Return every `n`-th pair from number `k` on."""
        return self._map(lambda value: value[k::n].contiguous())

    def repeated(self, times: int) -> Pairs:
        """Return all pairs so many `times` over."""
        return self if times == 1 else self._map(lambda value: torch.cat([value] * times))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Pairs:
        values = (getattr(self, f.name) for f in fields(self))
        parts: list[Any] = [None if v is None else change(v) for v in values]
        return Pairs(*parts)


@dataclass(frozen=True, eq=False)
class PathPoint:
    """A point on a path, in real time.

    At time `t` ``(n,)`` in state `x` ``(n, d)`` it has the conditional `velocity` ``(n, d)``, data
    units per unit of time; of the path's mean alone, without what comes from the noise,
    `mean_velocity`. The `noise` ``(n, d)`` is the deviate that led to `x`, standard normal but for
    heavy-tailed paths, and `std` ``(n, 1)`` the standard deviation there; the conditional score of
    a normal one is ``-noise / std``. The rate of the pair's log mass per unit of time is `growth`
    ``(n,)``, None where mass stays; its mass relative to that at the start, both as shares of the
    whole population where its `mean_growth` is known, is `weight` ``(n,)``, None for one; the code
    of its `condition` has shape ``(n,)``. Of the parts that one batch was dealt into, this has the
    weight `share`, of mean one.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor
    noise: Tensor
    std: Tensor
    mean_velocity: Tensor
    weight: Tensor | None = None
    growth: Tensor | None = None
    share: Tensor | float = 1.0
    condition: Tensor | None = None


class Path(ABC):
    r"""A Gaussian path :math:`x_s = \mu_s(x_0, x_1) + \sigma_s z` between paired cells.

    A member is a frozen dataclass in a file of its own, whose settings have defaults, and registers
    itself by name: ``@PATHS.register("straight")``. It gives :meth:`mean` and, where that is not a
    constant `sigma`, :meth:`std`; their rates come from forward-mode automatic differentiation
    unless it gives them too. `s` in (0, 1) is the fraction of the interval that has passed; real
    time exists outside.

    One that is `source_free` generates cells from noise: its mean is a multiple of `x1`, and the
    source that of the noise at the start; cells `x0` are ignored.
    """

    sigma: float | None = None  #: Scale of the noise, if the path has such a setting.
    margin: float = 0.0  #: Distance that draws of ``s`` keep from both ends.
    needs_rates: ClassVar[bool] = False  #: It bends, by the cells' velocities at both ends.
    needs_reference: ClassVar[bool] = False  #: It, and its pairs, are relative to a drift of these.
    source_free: ClassVar[bool] = False  #: It begins from noise.

    def __post_init__(self) -> None:
        if self.sigma is not None:
            object.__setattr__(self, "sigma", _checks.number(self.sigma, "sigma", low=0.0))

    @property
    def diffusion(self) -> float:
        """Diffusion of the process whose bridges these are; 0 where there is none."""
        return 0.0

    @property
    def heavy_tailed(self) -> bool:
        """Whether the noise is not normal, so that it tells of no score."""
        return False

    def diffusion_at(self, s: Tensor) -> Tensor | None:
        """Diffusion at fraction `s` of the process that makes noise of cells; None for none."""
        return None

    def from_normal(self, z: Tensor) -> Tensor:
        """Return deviates of the path's noise, made of standard normal ones `z` ``(n, d)``."""
        return z

    def to_normal(self, noise: Tensor) -> Tensor:
        """Return the normal deviates that :meth:`from_normal` makes `noise` of."""
        return noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of a source-free path's source at `x` ``(n, d)``: ``(n,)``."""
        return torch.distributions.Normal(0.0, self.std_at_start()).log_prob(x).sum(1)

    @abstractmethod
    def mean(self, pairs: Pairs, s: Tensor) -> Tensor:
        """Mean of `pairs` at fraction `s` ``(n, 1)``, shape ``(n, d)``."""

    def std(self, pairs: Pairs, s: Tensor) -> Tensor:
        """Standard deviation of `pairs` at fraction `s` ``(n, 1)``, shape ``(n, 1)``."""
        return torch.full_like(s, self.sigma or 0.0)

    def mean_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        """Derivative in `s` of the mean of `pairs`, shape ``(n, d)``."""
        return torch.func.jvp(lambda u: self.mean(pairs, u), (s,), (torch.ones_like(s),))[1]

    def std_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        """Derivative in `s` of the standard deviation of `pairs`, shape ``(n, 1)``."""
        if self._constant:
            return torch.zeros_like(s)
        return torch.func.jvp(lambda u: self.std(pairs, u), (s,), (torch.ones_like(s),))[1]

    def log_mass(self, pairs: Pairs, s: Tensor) -> Tensor | None:
        """Log mass of `pairs` at `s` relative to the start, ``(n, 1)``; None where mass stays."""
        return None if pairs.growth is None else pairs.growth * s * pairs.span

    def growth(self, pairs: Pairs, s: Tensor) -> Tensor | None:
        """Rate of that log mass of `pairs` at `s` per unit of time, shape ``(n, 1)``, or None."""
        return pairs.growth

    def by_cost(self, cost: Cost) -> Self:
        """Return this path between cells that are paired by a ground `cost`."""
        return self

    def half_variance_rate(self, pairs: Pairs, s: Tensor) -> Tensor:
        r"""Return :math:`\tfrac12 d\sigma_s^2/dt` of `pairs` at `s`, shape ``(n, 1)``.

        Where the population has density :math:`p_t`, the noise adds
        :math:`-\tfrac12 \frac{d\sigma_s^2}{dt} \nabla \log p_t` to the velocity of the means.
        """
        return self.std(pairs, s) * self.std_rate(pairs, s) / pairs.span

    def _weight(self, pairs: Pairs, s: Tensor) -> Tensor | None:
        """Return the mass of `pairs` at fraction `s` ``(n, 1)``: see :class:`PathPoint`."""
        log = self.log_mass(pairs, s)
        if log is None:
            return None
        # Of shares: a population that grows a thousandfold in one interval would otherwise give
        # the others, and its own beginning, a thousandth of the weight.
        if pairs.mean_growth is not None:
            log = log - pairs.mean_growth * s * pairs.span
        return log.exp()[:, 0]

    @property
    def _constant(self) -> bool:
        return type(self).std is Path.std

    def std_at_start(self) -> float:
        """Standard deviation around a cell of the source, in data units."""
        one = torch.zeros(1, 1, dtype=torch.float64)
        return float(self.std(Pairs(one, one, one, one + 1), one))

    def at(self, pairs: Pairs, s: Tensor, noise: Tensor) -> PathPoint:
        r"""Return the point of `pairs` at fraction `s` ``(n, 1)``, with `noise` ``(n, d)``.

        The velocity is that of the flow which carries this Gaussian path (OT-CFM,
        :cite:`tong2024improving`, eq. 7): :math:`\dot\mu_s + \dot\sigma_s z`, per unit of time.
        """
        std, span = self.std(pairs, s), pairs.span
        mean_velocity = self.mean_rate(pairs, s) / span
        velocity = mean_velocity
        if not self._constant:  # otherwise noise moves no cell
            velocity = mean_velocity + self.std_rate(pairs, s) / span * noise
        x = self.mean(pairs, s) + std * noise
        t = (pairs.t0 + s * (pairs.t1 - pairs.t0))[:, 0]
        growth = self.growth(pairs, s)
        growth = None if growth is None else growth[:, 0]
        code = None if pairs.condition is None else pairs.condition[:, 0]
        own = t, x, velocity, noise, std, mean_velocity, self._weight(pairs, s), growth
        return PathPoint(*own, condition=code)

    def draw(
        self,
        pairs: Pairs,
        generator: torch.Generator,
        *,
        part: tuple[int, int] = (0, 1),
        times: Callable[[Tensor], Tensor] = lambda u: u,
        per_pair: int = 1,
    ) -> PathPoint:
        """Return points of `pairs` at random fractions and with noise, both from `generator`.

        Uniform numbers are the fractions, or `times` makes these of them; each pair is met
        `per_pair` times. The `part` ``(k, n)`` has every `n`-th point from number `k` on; the
        generator is advanced alike for every part. A mean over all points, weighted or not, is the
        mean of those of the parts, each by its :attr:`PathPoint.share`.
        """
        pairs = pairs.repeated(per_pair)
        x0 = pairs.x0
        like: dict[str, Any] = {"dtype": x0.dtype, "device": x0.device, "generator": generator}
        s = times(torch.rand(x0.shape[0], 1, **like))
        if self.margin:
            s = self.margin + (1 - 2 * self.margin) * s
        noise = self.from_normal(torch.randn(x0.shape, **like))
        k, n = part
        if n == 1:
            return self.at(pairs, s, noise)
        point = self.at(pairs.part(k, n), s[k::n], noise[k::n])
        share: Tensor | float = n * len(point.t) / len(s)
        weight = self._weight(pairs, s)
        if weight is not None:
            share = n * weight[k::n].sum() / weight.sum()
        return replace(point, share=share)


#: Paths by name.
PATHS: Registry[type[Path]] = Registry("cellflow.paths")
