"""What a network is: a field with units, and the shape that builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from cellflow import _checks, _moments
from cellflow._registry import Registry
from cellflow._typing import Field, Rng, Tensor
from cellflow.timecourse import TimeCourse


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
    knots
        Times of the snapshots.
    features
        Numbers that each token of a condition has; 0 without conditions.
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
        return cls(tuple(centre.tolist()), scale, course.times[0], span, tuple(course.times))


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

    def between(self, t: Tensor, until: Tensor, x: Tensor) -> Tensor:
        """Average velocity of cells `x` ``(n, d)`` from `t` until then, scalars or ``(n,)``.

        By default that at `t`, as in a step of Euler's.
        """
        return self(t, x)

    def evaluator(self, like: Tensor) -> Field:
        """Return what evaluates this network without gradients, for cells such as `like`.

        It may be a copy: a network that is trained further wants another one.
        """
        return self


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
