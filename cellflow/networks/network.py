"""What a network is: a field with units, and the shape that builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from cellflow import _checks, _moments
from cellflow._registry import Registry
from cellflow._typing import Field, Rng, Tensor
from cellflow.conditions import Context
from cellflow.timecourse import TimeCourse


@dataclass(frozen=True)
class Units:
    """Affine units in which a network sees its inputs and answers.

    A network sees ``(x - centre) / scale`` and ``(t - origin) / span``, and its output is
    multiplied by ``scale / span``, so that raw principal components, hours or days train alike.
    One `scale` for all dimensions keeps the geometry of the data. For a course at times 0, 1, 2, …
    the network sees time as it is, as in the OT-CFM paper.

    The mean of the cells is `centre`, of length d, and their root mean square deviation per
    dimension, in data units, `scale`; the first time of the course is `origin`, the mean time
    between snapshots `span`, and their times are `knots`. A token of a condition has so many
    numbers, `features`; 0 without conditions.
    """

    centre: tuple[float, ...]
    scale: float = 1.0
    origin: float = 0.0
    span: float = 1.0
    knots: tuple[float, ...] = ()
    features: int = 0

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
        features = 0 if course.conditions is None else course.conditions.features
        knots = tuple(course.times)
        return cls(tuple(centre.tolist()), scale, knots[0], span, knots, features)


#: What a network answers with, and the unit of that: a power of the scale, one of the span.
ANSWERS: dict[str, tuple[int, int]] = {"velocity": (1, -1), "score": (-1, 0), "growth": (0, -1)}


#: Width of hidden layers up to which a step of training loses by sharing threads.
SMALL = 256


class Network(nn.Module):
    """Field ``(t, x) -> (n, d)``, or ``(n,)`` for growth, in `units` of the data.

    The length of the units sets the dimension d. An `answer` of ``"velocity"``, ``"score"`` or
    ``"growth"`` sets the `unit` of the output, and that growth is one number a cell. A `small` one
    is not sped up by threads; one that learns the `average` of the velocity is told until when. The
    shape that builds it is its `config`, None of networks of others.

    Where the units have features, ``network(t, x, context)`` is the field under the conditions of a
    :class:`~cellflow.conditions.Context`, without which nothing is said of them.
    """

    config: NetworkConfig | None = None
    small: bool = False
    average: bool = False
    centre: Tensor

    def __init__(self, units: Units, answer: str = "velocity") -> None:
        super().__init__()
        self.units, self.answer = units, _checks.choice(answer, ANSWERS, "answer")
        scale, span = ANSWERS[answer]
        self.unit = units.scale**scale * units.span**span
        self.register_buffer("centre", torch.tensor(units.centre, dtype=torch.float64))

    def between(
        self, t: Tensor, until: Tensor, x: Tensor, *, context: Context | None = None
    ) -> Tensor:
        """Average velocity of cells `x` ``(n, d)`` from `t` until then, scalars or ``(n,)``.

        By default that at `t`, as in a step of Euler's; of what the cells' `context` says.
        """
        return self(t, x) if context is None else self(t, x, context)

    def given(self, context: Context, guidance: float = 1.0) -> GivenField:
        """Return the field that is told the `context`, at a strength of `guidance`."""
        return GivenField(self, context, guidance)

    def evaluator(self, like: Tensor, context: Context | None = None) -> Field:
        """Return what evaluates this network without gradients, for cells such as `like`.

        Of what `context` says. It may be a copy: a network that is trained further wants another.
        """
        return self if context is None else self.given(context)


@dataclass(frozen=True, eq=False)
class GivenField:
    r"""Field of a `network` that is told a `context` (:cite:`ho2022`, eq. 6, with w for w + 1).

    .. math:: v_\varnothing + w\,(v_c - v_\varnothing)

    of the answers to nothing and to the context, with :math:`w` the `guidance`: 1 asks the network
    for the context alone, 0 for nothing alone.
    """

    network: Network
    context: Context
    guidance: float = 1.0

    @property
    def units(self) -> Units:
        """Units of the network."""
        return self.network.units

    @property
    def small(self) -> bool:
        """Whether threads do not speed it up."""
        return self.network.small

    @property
    def average(self) -> bool:
        """Whether the network learns the average of the velocity."""
        return self.network.average

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""
        return self._guided(lambda context: self.network(t, x, context))

    def between(self, t: Tensor, until: Tensor, x: Tensor) -> Tensor:
        """Average velocity from `t` to `until`: see :meth:`Network.between`."""
        return self._guided(lambda context: self.network.between(t, until, x, context=context))

    def evaluator(self, like: Tensor) -> Field:
        """Return what evaluates this field without gradients: see :meth:`Network.evaluator`."""
        known = {c: self.network.evaluator(like, c) for c in (None, self.context)}
        return lambda t, x: self._guided(lambda context: known[context](t, x))

    def _guided(self, answer: Callable[[Context | None], Tensor]) -> Tensor:
        if self.guidance in (0, 1):
            return answer(self.context if self.guidance else None)
        return torch.lerp(answer(None), answer(self.context), self.guidance)


class NetworkConfig(ABC):
    """Shape of networks.

    A member is a frozen dataclass in a file of its own, which registers itself:
    ``@NETWORKS.register("mlp")``.
    """

    @property
    def small(self) -> bool:
        """Whether threads cannot speed up a step of training."""
        return False

    @property
    def jumps(self) -> bool:
        """Whether fields may jump at the times of snapshots, which no step must cross then."""
        return False

    @abstractmethod
    def build(self, units: Units, *, answer: str, generator: Rng) -> Network:
        """Return a fresh network with `units`, its weights drawn from a seed or `generator`.

        Its `answer` is one of `ANSWERS`: ``"velocity"``, ``"score"`` or ``"growth"``.
        """


#: Shapes of networks by name.
NETWORKS: Registry[type[NetworkConfig]] = Registry("cellflow.networks")
