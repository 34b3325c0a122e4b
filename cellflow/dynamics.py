"""Learned dynamics: velocity, and where there are, score, growth and noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from cellflow import _checks
from cellflow._typing import Field, Rng, Tensor

#: Products with Jacobians of cells that are taken at once: hidden layers then stay in the cache.
BLOCK = 2**13


class ComposedField(ABC):
    """Velocity that is made of other fields, one of which is the score.

    A drift asks it for both with one call of each part.
    """

    @property
    @abstractmethod
    def parts(self) -> tuple[Field, ...]:
        """The fields that it is made of."""

    @abstractmethod
    def map(self, change: Callable[[Field], Field]) -> ComposedField:
        """Return the same field with what `change` makes of each part in its place."""

    @abstractmethod
    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Velocity at time `t`, scalar or ``(n,)``, and cells `x` ``(n, d)``."""

    @abstractmethod
    def tilted(self, t: Tensor, x: Tensor, weight: float | Tensor) -> Tensor:
        """Velocity at `t` and `x` ``(n, d)``, and `weight` times the score."""


@dataclass(frozen=True, eq=False)
class Dynamics:
    r"""Stochastic dynamics of cells and of their mass.

    .. math::
        dX = \left(v + \tfrac12 \sigma^2 s\right) dt + \sigma\, dW, \qquad d \log m = g\, dt

    With :math:`\sigma = 0` this is the ODE :math:`dX = v\,dt`, whose marginals the stochastic
    equation shares when :math:`s = \nabla \log p_t` (Tong et al. 2023, [SF]2M, eq. 3-5).

    The probability-flow `velocity` :math:`v(t, x)` is in data units per unit of time; one that is
    made of the `score` is a :class:`ComposedField`, so that the drift asks the score once. That is
    :math:`\nabla \log p_t(x)`, or None for deterministic dynamics. The rate of `growth` :math:`g(t,
    x)`, of shape ``(n,)``, is per unit of time, or None. The diffusion `sigma` is in data units per
    square root of a unit of time: a number, or a function of the time, a scalar or ``(n,)``, whose
    answer is of that shape. The fields may jump at `breaks`, increasing times.
    """

    velocity: Field
    score: Field | None = None
    growth: Field | None = None
    sigma: float | Callable[[Tensor], Tensor] = 0.0
    breaks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.sigma):
            _checks.number(self.sigma, "sigma", low=0.0)
        breaks = tuple(_checks.number(b, "breaks") for b in self.breaks)
        if any(later <= earlier for earlier, later in pairwise(breaks)):
            raise ValueError(_checks.message("breaks", f"{breaks}", "increasing times"))
        object.__setattr__(self, "breaks", breaks)

    @property
    def noisy(self) -> bool:
        """Whether there is diffusion, and a score that says how the drift answers it."""
        return self.score is not None and self.sigma != 0

    def map(self, change: Callable[[Field], Field]) -> Dynamics:
        """Return the same dynamics with what `change` makes of each field that is no composed one.

        A field that is shared stays so.
        """
        made: dict[int, Field] = {}

        def of(field: Field) -> Field:
            if isinstance(field, ComposedField):
                return field.map(of)
            if id(field) not in made:
                made[id(field)] = change(field)
            return made[id(field)]

        score, growth = (None if f is None else of(f) for f in (self.score, self.growth))
        return replace(self, velocity=of(self.velocity), score=score, growth=growth)

    def sigma_at(self, t: Tensor) -> Tensor | float:
        """Diffusion at time `t`: a number, or ``()`` or ``(n, 1)`` as the times are."""
        if not callable(self.sigma):
            return self.sigma
        sigma = self.sigma(t)
        return sigma if t.ndim == 0 else sigma.reshape(-1, 1)

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Drift of the forward SDE at ``t`` (scalar or ``(n,)``) and ``x`` ``(n, d)``."""
        return self._tilted(t, x, +0.5)

    def reverse_drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Drift at ``t`` and ``x``, in forward time, of the SDE run backward."""
        return self._tilted(t, x, -0.5)

    def _tilted(self, t: Tensor, x: Tensor, factor: float) -> Tensor:
        if not self.noisy or self.score is None:
            return self.velocity(t, x)
        weight = factor * self.sigma_at(t) ** 2
        if isinstance(weight, Tensor):
            weight = weight.to(x)
        if isinstance(self.velocity, ComposedField) and self.score in self.velocity.parts:
            return self.velocity.tilted(t, x, weight)
        v, score = self.velocity(t, x), self.score(t, x)
        if score.shape != v.shape:  # it would be broadcast
            got, expected = f"shape {tuple(score.shape)}", f"shape {tuple(v.shape)}"
            raise ValueError(_checks.message("dynamics.score", got, expected))
        return v + weight * score


def along_probes(field: Field, t: Tensor, x: Tensor, *, probes: Tensor) -> tuple[Tensor, Tensor]:
    r"""Value ``(n, d)`` of `field` and :math:`\epsilon^\top J` of `probes`, both ``(k, n, d)``.

    J is the Jacobian of the `field`, which acts on cells `x` ``(n, d)`` separately; `t` is a scalar
    or ``(n,)``. Probes ``(k, 1, d)`` are those of all cells; with the unit vectors, the products
    are the rows of J. Gradients of both are recorded where those of the field are.
    """
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        if not (record and x.requires_grad):
            x = x.detach().requires_grad_(True)
        value = field(t, x)
        rows = None
        if value.requires_grad:
            given = probes.to(x).expand(-1, *x.shape)
            (rows,) = torch.autograd.grad(
                value, x, given, create_graph=record, allow_unused=True, is_grads_batched=True
            )
    if rows is None:  # constant in x
        rows = x.new_zeros(len(probes), *x.shape)
    return (value, rows) if record else (value.detach(), rows.detach())


def divergence(field: Field, t: Tensor, x: Tensor, *, probes: Tensor | None = None) -> Tensor:
    r"""Divergence of `field` at time `t` and cells `x` ``(n, d)``, per unit of time: ``(n,)``.

    The field is as in :func:`along_probes`. Without `probes` the trace is exact. With those of
    :func:`rademacher`, ``(n, k, d)``, it is what each of them estimates without bias, ``(n, k)``
    (:cite:`hutchinson1989`): :math:`\epsilon^\top J \epsilon`.
    """
    n, d = x.shape
    given = torch.eye(d, device=x.device)[None] if probes is None else probes
    out = [x.new_empty(0, given.shape[1])]
    for rows in torch.arange(n, device=x.device).split(max(1, BLOCK // given.shape[1])):
        each = given.to(x).expand(n, -1, -1)[rows].transpose(0, 1)
        _, products = along_probes(field, t if t.ndim == 0 else t[rows], x[rows], probes=each)
        out.append((products * each).sum(2).T)
    found = torch.cat(out)
    return found.sum(1) if probes is None else found


def rademacher(shape: tuple[int, ...], generator: Rng = 0) -> Tensor:
    """Draw signs of this `shape`, in whole numbers of a byte, on the device of `generator`."""
    rng = _checks.as_generator(generator)
    return 2 * torch.randint(2, shape, generator=rng, device=rng.device, dtype=torch.int8) - 1
