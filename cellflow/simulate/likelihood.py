"""Likelihood: the density of cells under a flow, by the change of variables in continuous time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics, divergence, rademacher
from cellflow.simulate.integration import Integration
from cellflow.simulate.simulate import simulate_as

#: Dimensions up to which the divergence is exact by default, and probes beyond.
EXACT, PROBES = 50, 16


@runtime_checkable
class Density(Protocol):
    """What a base is: anything with the log-density of cells ``(n, d)``, ``(n,)``."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at cells `x` ``(n, d)``: ``(n,)``."""


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-density of `n` cells under a flow.

    `log_prob` ``(n,)``; its `standard_error` by the choice of probes, ``(n,)``, None where the
    divergence is exact; where the flow takes the cells at the time of the base, `base_cells` ``(n,
    d)``; and how often the field was asked, `n_evaluations`.
    """

    log_prob: Tensor
    standard_error: Tensor | None
    base_cells: Tensor
    n_evaluations: int = 0


def log_likelihood(
    dynamics: Dynamics,
    x: ArrayLike,
    time: float,
    *,
    base: Density,
    base_time: float,
    probes: int | None = None,
    generator: Rng = 0,
    how: Integration | None = None,
) -> Likelihood:
    r"""Log-density of cells at a time, where that of another time is known.

    .. math:: \log p_t(x_t) = \log p_0(x_0) - \int_0^t \nabla \cdot v(s, x_s)\, ds

    along the flow (:cite:`chen2018`, theorem 1), here from `x` at `time` to the base, which may be
    earlier or later. Where the dynamics have growth, it is that of the mass, :math:`\int g` more,
    which integrates to the factor by which the population has grown.

    Parameters
    ----------
    dynamics
        Their velocity is that of the probability flow, which has the marginals of the SDE.
    x, time
        Cells, ``(n, d)``, and their time.
    base, base_time
        What has the log-density of cells at its time, ``base.log_prob(x)``; and that time.
    probes
        Number of random probes of the divergence for each cell, at least two: the estimate of
        Hutchinson, as in FFJORD :cite:`grathwohl2019`, with its standard error. The probes stay
        the same all along the flow. With as many as there are dimensions, and by default in up to
        50, the divergence is exact; beyond, 16 is the default.
    generator
        Seed or generator of the probes.
    how
        Solver, steps and tolerances; those of :func:`cellflow.simulate.simulate` when omitted.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import MultivariateNormal
    >>> base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> shrinking = Dynamics(velocity=lambda t, x: -x)
    >>> found = log_likelihood(shrinking, torch.zeros(1, 2), 1.0, base=base, base_time=0.0)
    >>> found.log_prob - base.log_prob(torch.zeros(1, 2))  # by how much the flow has shrunk
    tensor([2.])
    """
    if not isinstance(base, Density):
        raise TypeError(_checks.message("base", type(base).__name__, "an object with log_prob(x)"))
    time, base_time = _checks.number(time, "time"), _checks.number(base_time, "base_time")
    x = _checks.as_cells(x, "x").detach()
    n, d = x.shape
    number = d if d <= EXACT else PROBES
    if probes is not None:
        number = _checks.count(probes, "probes", low=2)
    signs = rademacher((n, number, d), generator).to(x.device) if number < d else None
    if time == base_time:
        zero = None if signs is None else torch.zeros_like(x[:, 0])
        return Likelihood(_at(base, x), zero, x)
    columns = 1 if signs is None else number
    # Cells carry their number, by which they find their probes however they are divided.
    numbers = torch.arange(n, device=x.device).to(x)[:, None]
    state = torch.cat([x, x.new_zeros(n, columns), numbers], 1)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        cells = state[:, :d]
        mine = None if signs is None else signs[state[:, -1].long()]
        rate = divergence(dynamics.velocity, t, cells, probes=mine).reshape(-1, columns)
        if dynamics.growth is not None:
            rate = rate - dynamics.growth(t, cells)[:, None]
        return torch.cat([dynamics.velocity(t, cells), rate, torch.zeros_like(cells[:, :1])], 1)

    flow = Dynamics(velocity, breaks=dynamics.breaks)
    out = simulate_as(flow, state, [time, base_time], how=how or Integration())
    end, change = out.final[:, :d], out.final[:, d:-1]
    error = None if signs is None else change.std(1) / columns**0.5
    return Likelihood(_at(base, end) + change.mean(1), error, end, out.n_evaluations)


def _at(base: Density, x: Tensor) -> Tensor:
    """Return the log-density of `base` at cells `x` ``(n, d)``, checked."""
    with _checks.by_function("base"):
        found = base.log_prob(x)
    if not isinstance(found, torch.Tensor) or found.shape != x.shape[:1]:
        got = f"{tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(_checks.message("base.log_prob(x)", got, f"a tensor ({len(x)},)"))
    return found.to(x)
