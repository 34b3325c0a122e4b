"""Densities of the time at which a path is met, by what they make of uniform numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from cellflow._registry import Registry
from cellflow._typing import Tensor

#: Densities of time by name: functions from uniform numbers to fractions, both in [0, 1].
TIMESTEPS: Registry[Callable[[Tensor], Tensor]] = Registry("cellflow.paths")


@TIMESTEPS.register("uniform")
def uniform(u: Tensor) -> Tensor:
    """All times alike: uniform numbers `u` as they are."""
    return u


@TIMESTEPS.register("logit_normal")
def logit_normal(u: Tensor, *, location: float = 0.0, scale: float = 1.0) -> Tensor:
    r"""Times whose logit is normal with `location` and `scale` (:cite:`esser2024`, eq. 19).

    Most lie in the middle, where a path from noise is hardest to learn; the ends, of density zero,
    are seldom met. Made of uniform `u`. A positive location is nearer to the target.
    """
    return torch.sigmoid(location + scale * math.sqrt(2) * torch.erfinv(2 * u - 1))


@TIMESTEPS.register("mode")
def mode(u: Tensor, *, scale: float = 1.29) -> Tensor:
    r"""Times about the middle with heavy tails (:cite:`esser2024`, eq. 20), of uniform `u`.

    .. math:: f(u) = 1 - u - c\,(\cos^2(\tfrac{\pi}{2} u) - 1 + u)

    A `scale` c from -1 to 2 / (π - 2) prefers the ends where negative, the middle where positive.
    """
    return 1 - u - scale * (torch.cos(0.5 * math.pi * u) ** 2 - 1 + u)


@TIMESTEPS.register("cosmap")
def cosmap(u: Tensor) -> Tensor:
    r"""Times of the cosine schedule's signal-to-noise ratio (:cite:`esser2024`, eq. 21), of `u`.

    .. math:: f(u) = 1 - \frac{1}{\tan(\tfrac{\pi}{2} u) + 1}, \qquad
        \pi(s) = \frac{2}{\pi - 2\pi s + 2\pi s^2}
    """
    return 1 - 1 / (torch.tan(0.5 * math.pi * u) + 1)
