"""The default network: a multilayer perceptron on time and state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from cellflow import _checks, _moments
from cellflow._typing import Rng, Tensor
from cellflow.networks.fast import chain
from cellflow.timecourse import TimeCourse

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


#: Hidden units of the factor of the skip connection.
_GATE_WIDTH = 32


@dataclass(frozen=True)
class MLPConfig:
    """Shape of a :class:`MLP`; 3 × 64 as in the OT-CFM paper, with a smooth activation.

    Parameters
    ----------
    width
        Units of each hidden layer.
    depth
        Number of hidden layers.
    activation
        One of ``"selu"``, ``"silu"``, ``"relu"``, ``"gelu"``, ``"tanh"``, ``"softplus"``.
    time_features
        0 feeds time itself; ``k > 0`` feeds ``k`` sine and ``k`` cosine features beside it.
    skip
        Whether a multiple of the centred state is added to the answer, by a factor that a small
        network makes of time alone. The score of a wide cloud and the drift of its bridge are
        mostly that, and hidden layers narrower than the data cannot carry it.
    time
        Whether the field depends on time; False hides it, for one law of motion at all times.

    Raises
    ------
    ValueError
        If a size is not positive or the activation is unknown.
    """

    width: int = 64
    depth: int = 3
    activation: str = "silu"
    time_features: int = 0
    skip: bool = False
    time: bool = True

    def __post_init__(self) -> None:
        _checks.count(self.width, "width")
        _checks.count(self.depth, "depth")
        _checks.choice(self.activation, ACTIVATIONS, "activation")
        _checks.count(self.time_features, "time_features", low=0)


@dataclass(frozen=True)
class Units:
    """Affine units in which a network sees its inputs and answers.

    A network sees ``(x - centre) / scale`` and ``(t - origin) / span``, and its output is
    multiplied by ``scale / span``, so that raw principal components, hours or days train alike.
    One `scale` for all dimensions keeps the geometry of the data. For a course at times 0, 1, 2, …
    the network sees time as it is, as in the OT-CFM paper.

    Parameters
    ----------
    centre
        Mean of the cells, length d.
    scale
        Root mean square deviation per dimension, in data units.
    origin
        First time of the course.
    span
        Mean time between snapshots.
    """

    centre: tuple[float, ...]
    scale: float = 1.0
    origin: float = 0.0
    span: float = 1.0

    @property
    def speed(self) -> float:
        """Unit of velocity, in data units per unit of time."""
        return self.scale / self.span

    @classmethod
    def of(cls, course: TimeCourse, *more: TimeCourse) -> Units:
        """Units of a time course.

        Parameters
        ----------
        course, *more
            Its parts.
        """
        xs = [s.x.detach() for part in (course, *more) for s in part.snapshots]
        centre = _moments.mean(xs)
        scale = float(_moments.variance(xs, centre).mean().sqrt()) or 1.0
        span = (course.times[-1] - course.times[0]) / (len(course) - 1)
        return cls(tuple(centre.tolist()), scale, course.times[0], span)


#: What a network answers with, and the unit of that: a power of the scale, one of the span.
ANSWERS: dict[str, tuple[int, int]] = {"velocity": (1, -1), "score": (-1, 0), "growth": (0, -1)}


class MLP(nn.Module):
    """A field ``(t, x) -> (n, d)``, or ``(n,)`` for growth.

    Parameters
    ----------
    units
        Units of inputs and outputs; their length sets the dimension d.
    config
        Width, depth, activation and time features.
    answer
        ``"velocity"``, ``"score"`` or ``"growth"``: sets the unit of the output, and that growth
        is one number a cell.
    generator
        Seed or generator of the initial weights (the default initialisation of torch's linear
        layers: uniform within ``1/sqrt(fan_in)``).
    """

    centre: Tensor

    def __init__(
        self,
        units: Units,
        config: MLPConfig | None = None,
        *,
        answer: str = "velocity",
        generator: Rng = 0,
    ) -> None:
        super().__init__()
        self.units, self.config = units, config or MLPConfig()
        self.answer = _checks.choice(answer, ANSWERS, "answer")
        scale, span = ANSWERS[answer]
        self.unit = units.scale**scale * units.span**span
        dim = len(units.centre)
        sizes = [dim + 1 + 2 * self.config.time_features]
        sizes += [self.config.width] * self.config.depth
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [_Linear(fan_in, fan_out), ACTIVATIONS[self.config.activation]()]
        self.layers = nn.Sequential(*layers, _Linear(sizes[-1], 1 if answer == "growth" else dim))
        self.gate: nn.Sequential | None = None
        if self.config.skip and answer != "growth":
            width, unit = _GATE_WIDTH, ACTIVATIONS[self.config.activation]
            first = _Linear(sizes[0] - dim, width)
            self.gate = nn.Sequential(first, unit(), _Linear(width, width), unit())
            self.gate.append(_Linear(width, 1))
        self.register_buffer("centre", torch.tensor(units.centre, dtype=torch.float64))
        self._initialise(_checks.as_generator(generator))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for layer in (*self.layers, *(self.gate or ())):
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    parameter.uniform_(-bound, bound, generator=generator)
        if self.gate is not None:  # closed at the start
            for parameter in self.gate[-1].parameters():
                parameter.zero_()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""
        u = self.units
        time = ((t - u.origin) / u.span).to(x.dtype).expand(x.shape[0])[:, None]
        if not self.config.time:
            time = torch.zeros_like(time)
        inputs = [(x - self.centre) / u.scale, time]
        if self.config.time_features:
            rates = torch.arange(1, self.config.time_features + 1, dtype=x.dtype, device=x.device)
            phase = time * rates * math.pi
            inputs += [phase.sin(), phase.cos()]
        out = chain(self.layers, torch.cat(inputs, 1))
        if self.gate is not None:
            out = out + self.gate(torch.cat(inputs[1:], 1)) * inputs[0]
        out = out * self.unit
        return out[:, 0] if self.answer == "growth" else out


class _Linear(nn.Linear):
    """A linear layer that leaves its weights to the network."""

    def reset_parameters(self) -> None:
        """Do nothing: torch's own initialisation would draw from the global generator."""
