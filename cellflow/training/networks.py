"""The networks of a method, and the dynamics that they make up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Field, Tensor
from cellflow.dynamics import ComposedField, Dynamics
from cellflow.networks import Units
from cellflow.paths import Pairs, Path


def build_networks(method: Any, units: Units, *, seed: int = 0) -> nn.ModuleDict:
    """Return the fresh networks that `method` trains, by the names of what they answer.

    Parameters
    ----------
    method
        Its `net` gives their shape, its `score` and `growth` say which there are.
    units
        Units of their inputs and outputs.
    seed
        Decides the initial weights.
    """
    names = ["velocity", *(name for name in ("score", "growth") if getattr(method, name))]
    return nn.ModuleDict(
        {
            name: method.net.build(units, answer=name, generator=stream_seed(seed, k, 10))
            for k, name in enumerate(names)
        }
    )


def assemble(method: Any, networks: nn.ModuleDict, times: Sequence[float]) -> Dynamics:
    """Return the dynamics that trained `networks` of `method` make up.

    Parameters
    ----------
    method
        Its path says how the parts combine.
    networks
        What :func:`build_networks` returned.
    times
        Times of the snapshots.
    """
    velocity: Field = networks["velocity"]
    score = networks["score"] if method.score else None
    growth = networks["growth"] if method.growth else None
    breaks: tuple[float, ...] = ()
    if score is not None and not method.direct_velocity:
        breaks = tuple(times)
        velocity = BridgeVelocity(velocity, score, method.path, breaks)
    return Dynamics(velocity, score, growth, sigma=method.path.diffusion, breaks=breaks)


@dataclass(frozen=True, eq=False)
class BridgeVelocity(ComposedField):
    r"""Velocity :math:`v = u - \tfrac12 \frac{d\sigma_t^2}{dt} \nabla \log p_t` of a noisy path.

    For Brownian bridges it is :math:`u - \tfrac12\sigma^2 (1 - 2s)\,\nabla\log p_t` with `s` the
    fraction of the interval that has passed. It jumps at the snapshots, where one bridge ends
    and another begins.

    Parameters
    ----------
    mean
        Expected velocity `u` of the path's mean given the state.
    score
        Score of the population.
    path
        The path that was learned.
    times
        Times of the snapshots; at one of them the interval that begins there counts.
    """

    mean: Field
    score: Field
    path: Path
    times: tuple[float, ...]

    @property
    def parts(self) -> tuple[Field, ...]:
        """The mean's velocity and the score."""
        return self.mean, self.score

    def map(self, change: Callable[[Field], Field]) -> BridgeVelocity:
        """Return the same field of changed parts."""
        return replace(self, mean=change(self.mean), score=change(self.score))

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""
        return self.tilted(t, x, 0.0)

    def tilted(self, t: Tensor, x: Tensor, weight: float) -> Tensor:
        """Velocity and `weight` times the score, at ``t`` and ``x``, of one call of each network.

        Parameters
        ----------
        t, x
            As above.
        weight
            For a drift, plus or minus half the squared diffusion.
        """
        return self.mean(t, x) + (weight - self._rate(t)).to(x.dtype) * self.score(t, x)

    def _rate(self, t: Tensor) -> Tensor:
        """Half the rate of the path's variance, shape ``()`` or ``(n, 1)``."""
        t = t.to(_checks.time_dtype(t.device))
        knots = torch.tensor(self.times, dtype=t.dtype, device=t.device)
        k = (torch.searchsorted(knots, t, right=True) - 1).clamp(0, len(knots) - 2)
        t0, t1 = knots[k].reshape(-1, 1), knots[k + 1].reshape(-1, 1)
        s = ((t.reshape(-1, 1) - t0) / (t1 - t0)).clamp(0.0, 1.0)
        rate = self.path.half_variance_rate(Pairs(t0, t1, t0, t1), s)
        return rate[0, 0] if t.ndim == 0 else rate
