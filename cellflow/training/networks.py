"""The networks of a method, and the dynamics that they make up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Field, Tensor
from cellflow.batches import Batching
from cellflow.conditions import Context
from cellflow.couplings import Coupling
from cellflow.dynamics import ComposedField, Dynamics
from cellflow.networks import Network, NetworkConfig, OwnNetworks, Units
from cellflow.paths import Pairs, Path
from cellflow.paths.prediction import Mix
from cellflow.simulate import Density
from cellflow.timecourse import TimeCourse
from cellflow.training.trainer import Training


@runtime_checkable
class FittedMethod(Protocol):
    """What a fit knows of its method, a frozen dataclass."""

    @property
    def name(self) -> str:
        """What tables and files call this method."""

    @property
    def parts(self) -> Parts:
        """Coupling, path, networks and settings."""

    @property
    def both_sides(self) -> bool:
        """Whether populations between snapshots are predicted from both neighbours."""


class Parts(FittedMethod, Protocol):
    """Parts of a method that its networks, dynamics, losses and pairs depend on."""

    @property
    def coupling(self) -> Coupling:
        """From two snapshots to a plan."""

    @property
    def path(self) -> Path:
        """Between paired cells."""

    @property
    def net(self) -> NetworkConfig:
        """Shape of the networks."""

    @property
    def batching(self) -> Batching:
        """How pairs are made."""

    @property
    def training(self) -> Training:
        """How the networks are trained."""

    @property
    def score(self) -> bool:
        """Whether the score is learned."""

    @property
    def growth(self) -> bool:
        """Whether the growth rate is learned."""

    @property
    def predict(self) -> str:
        """What the network of a path from noise predicts."""

    @property
    def timesteps(self) -> str | Callable[[Tensor], Tensor]:
        """Density of the times at which pairs are met."""

    @property
    def times_per_pair(self) -> int:
        """Times at which a pair is met in a step."""

    def scaled_to(self, *courses: TimeCourse) -> Parts:
        """Return the method with absolute sigmas, for these parts of one course."""

    def prior(self, course: TimeCourse) -> tuple[Density, float] | None:
        """Return the density that the flow begins from, and when; None where it is not known."""

    def facts(self) -> dict[str, Any]:
        """Return the method as facts that JSON can hold."""


def build_networks(parts: Parts, units: Units, *, seed: int = 0) -> nn.ModuleDict:
    """Return fresh networks by the names of what they answer: velocity, score, growth."""
    learned = {"velocity": True, "score": parts.score, "growth": parts.growth}
    names = [name for name, asked in learned.items() if asked]
    own = parts.net.net if isinstance(parts.net, OwnNetworks) else None
    if isinstance(own, nn.Module) and not isinstance(own, nn.ModuleDict) and len(names) > 1:
        expected = "a function (units, answer) that makes a module for each"
        raise ValueError(_checks.message("net", f"one module for {' and '.join(names)}", expected))
    seeds = {name: stream_seed(seed, k, 10) for k, name in enumerate(names)}
    made = {name: parts.net.build(units, answer=name, generator=s) for name, s in seeds.items()}
    return nn.ModuleDict(made)


def assemble(parts: Parts, networks: nn.ModuleDict, times: Sequence[float]) -> Dynamics:
    """Return the dynamics that `networks` make up, between snapshots at `times`."""
    velocity: Field = networks["velocity"]
    if parts.path.source_free:
        field = PredictedField(velocity, parts.path, parts.predict, times[0], times[-1])
        noisy = parts.path.diffusion_at(torch.tensor(0.5)) is not None
        of_noise = None if parts.path.heavy_tailed else replace(field, wanted="score")
        return Dynamics(field, of_noise, sigma=field.diffusion if noisy else 0.0)
    score = networks["score"] if parts.score else None
    growth = networks["growth"] if parts.growth else None
    breaks = tuple(times) if score is not None or parts.net.jumps else ()
    if score is not None:
        velocity = BridgeVelocity(velocity, score, parts.path, breaks)
    return Dynamics(velocity, score, growth, sigma=parts.path.diffusion, breaks=breaks)


def given(dynamics: Dynamics, context: Context, guidance: float = 1.0) -> Dynamics:
    """Return `dynamics` whose networks are told the `context`, at a strength of `guidance`.

    See :class:`cellflow.networks.network.GivenField`.
    """
    return dynamics.map(lambda f: f.given(context, guidance) if isinstance(f, Network) else f)


@dataclass(frozen=True, eq=False)
class BridgeVelocity(ComposedField):
    r"""Velocity :math:`v = u - \tfrac12 \frac{d\sigma_t^2}{dt} \nabla \log p_t` of a noisy path.

    For Brownian bridges it is :math:`u - \tfrac12\sigma^2 (1 - 2s)\,\nabla\log p_t` with `s` the
    fraction of the interval that has passed. It jumps at the snapshots, where one bridge ends
    and another begins: at one of their `times` the interval that begins there counts. `mean` is the
    expected velocity `u` of the `path`'s mean given the state, `score` that of the population.
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
        return replace(self, mean=change(self.mean), score=change(self.score))

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""
        return self.tilted(t, x, 0.0)

    def tilted(self, t: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
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


@dataclass(frozen=True)
class PredictedField(ComposedField):
    """Velocity or score of a source-free `path`, of what `net` predicts: the `given`.

    The path leads from time `start` to `end`. The network sees states divided by their size; of a
    target it answers with what remains to be told (:cite:`karras2022`, eq. 7).
    """

    net: Field
    path: Path
    given: str
    start: float
    end: float
    wanted: str = "velocity"

    @property
    def parts(self) -> tuple[Field, ...]:
        """The network; with a velocity also the score, if the noise tells of one."""
        alone = self.wanted == "score" or self.path.heavy_tailed
        return (self.net,) if alone else (self.net, replace(self, wanted="score"))

    def map(self, change: Callable[[Field], Field]) -> PredictedField:
        return replace(self, net=change(self.net))

    def fraction(self, t: Tensor) -> Tensor:
        """Fraction of the path at time `t`, of its shape, no nearer to the ends than draws are."""
        s = (t.to(_checks.time_dtype(t.device)) - self.start) / (self.end - self.start)
        return s.clamp(self.path.margin, 1 - self.path.margin)

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion of the path at time `t`, of its shape."""
        diffusion = self.path.diffusion_at(self.fraction(t))
        return cast(Tensor, diffusion) / (self.end - self.start) ** 0.5

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity or score at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""
        (out,) = self._answers(t, x, self.wanted)
        return out

    def tilted(self, t: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
        velocity, score = self._answers(t, x, "velocity", "score")
        return velocity + weight * score

    def predicted(self, t: Tensor, x: Tensor) -> tuple[Tensor, Mix]:
        """What the network says at time `t` and cells `x` ``(n, d)``, and the shares there."""
        mix = Mix.of(self.path, self.fraction(t).reshape(-1, 1), x)
        value = self.net(t, x / mix.size)
        if self.given == "target":  # what the state itself tells of it, and the rest
            value = (mix.alpha / mix.size * x + mix.sigma * value) / mix.size
        return value, mix

    def _answers(self, t: Tensor, x: Tensor, *wanted: str) -> Iterator[Tensor]:
        value, mix = self.predicted(t, x)
        for name in wanted:
            out = mix.convert(value, x, given=self.given, wanted=name)
            yield out / (self.end - self.start) if name == "velocity" else out
