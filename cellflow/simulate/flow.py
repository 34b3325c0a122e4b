"""Integration that gradients flow through: what is trained by simulating, slopes of answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from cellflow import _checks
from cellflow._typing import ArrayLike, Field, Tensor
from cellflow.dynamics import ComposedField, Dynamics
from cellflow.networks.network import GivenField
from cellflow.simulate.field import RescaledField
from cellflow.simulate.integration import Integration, Limits, as_times
from cellflow.simulate.job import Job
from cellflow.simulate.solver import SOLVERS
from cellflow.simulate.steps.rk4 import rk4
from cellflow.simulate.trajectory import Trajectory


def flow(
    dynamics: Dynamics,
    x0: ArrayLike,
    times: Sequence[float] | ArrayLike,
    *,
    solver: str = "rk4",
    max_step: float | None = None,
    limits: Limits = Limits(),
) -> Trajectory:
    r"""Follow the flow of `dynamics` as :func:`simulate` does, and record gradients.

    Those of the states, and of the log masses, with respect to `x0` and to the parameters of the
    fields. All cells are integrated at once, and steps end at every time asked for; `times`,
    `max_step` and `limits` are as in :func:`simulate`. A fixed-step `solver` keeps every step,
    which makes gradients exact for the solution computed. ``"dopri5"`` keeps the states asked for,
    and integrates the adjoint equation back (:cite:`chen2018`, section 2; torchdyn's): gradients
    are as exact as the tolerances, in little memory. It finds parameters in fields that are
    modules.

    Examples
    --------
    >>> import torch
    >>> from cellflow.dynamics import Dynamics
    >>> x = torch.ones(1, 1, requires_grad=True)
    >>> end = flow(Dynamics(lambda t, x: -x), x, [0.0, 1.0]).final
    >>> torch.autograd.grad(end, x)[0]
    tensor([[0.3679]])
    """
    how, member = Integration(solver=solver, max_step=max_step, limits=limits), SOLVERS[solver]
    if member.stochastic:
        expected = "a solver that draws no noise"
        raise ValueError(_checks.message("solver", repr(solver), expected))
    x0, grid = _checks.as_cells(x0, "x0"), as_times(times)
    job = Job.prepare(dynamics, x0.detach(), grid, how=how)
    rows = [torch.cat([x0, x0.new_zeros(len(x0), job.n_columns)], 1)]
    n_evaluations = 0
    for segment in job.segments:
        field = RescaledField(
            dynamics,
            segment.start,
            segment.span,
            max_evaluations=limits.max_evaluations if member.adaptive else None,
            bounds=segment.bounds,
        )
        for here, there in pairwise(segment.u.tolist()):
            x = rows[-1]
            if member.step is not None:
                n_steps = max(1, math.ceil(job.n_steps(segment) * (there - here) - 1e-9))
                *_, x = nodes(field, x, n_steps=n_steps, u=(here, there), step=member.step)
                field.require_finite(x, there)
            else:
                x = _adjoint(field, x, u=(here, there), solver=solver, limits=limits)
            rows.append(x)
        n_evaluations += field.n_evaluations
    states, d = torch.stack(rows)[job.asked.to(x0.device)], x0.shape[1]
    log_mass = states[..., d] if job.n_columns else None
    return Trajectory(grid, states[..., :d], log_mass, n_evaluations, solver)


def nodes(
    slope: Callable[[float, Tensor], Tensor],
    x: Tensor,
    *,
    n_steps: int,
    u: tuple[float, float] = (0.0, 1.0),
    step: Callable[..., Tensor] = rk4,
) -> Iterator[Tensor]:
    """Yield the states after each of `n_steps` equal steps from `x` ``(n, d)``, with gradients.

    ``dx/du`` is ``slope(u, x)``, and `u` goes from the first of two numbers to the second.
    """
    h = (u[1] - u[0]) / n_steps
    for k in range(n_steps):
        here = u[0] + k * h
        x = step(slope, x, slope(here, x), u=here, h=h)
        yield x


def _adjoint(
    field: RescaledField, x: Tensor, *, u: tuple[float, float], solver: str, limits: Limits
) -> Tensor:
    """Return the state at the end of `u` through `x` ``(n, d)``, with gradients by torchdyn."""
    from torchdyn.numerics.sensitivity import _gather_odefunc_adjoint
    from torchdyn.numerics.solvers.ode import str_to_solver

    known, method = _WithParameters(field, x), str_to_solver(solver, x.dtype)
    # torchdyn keeps these in float32, to which it would round the steps of a float64 solution.
    for name in ("safety", "min_factor", "max_factor"):
        setattr(method, name, getattr(method, name).to(x))
    flat = torch.cat([p.contiguous().flatten() for p in known.parameters()])
    made = _gather_odefunc_adjoint(
        known,
        flat,
        method,
        *(limits.atol, limits.rtol),
        interpolator=None,
        solver_adjoint=method,
        atol_adjoint=limits.atol,
        rtol_adjoint=limits.rtol,
        integral_loss=None,
        problem_type="standard",
    )
    return made.apply(flat, x, torch.tensor(u).to(x))[1][-1]


class _WithParameters:
    """A field as torchdyn wants it, with the parameters that gradients are taken of."""

    def __init__(self, field: RescaledField, like: Tensor) -> None:
        self.field, self.nothing = field, like.new_zeros(1).requires_grad_()
        parts = (field.dynamics.velocity, field.dynamics.growth)
        found = (p for part in parts if part is not None for p in _parameters(part))
        self.found = list({id(p): p for p in found}.values())

    def parameters(self) -> list[Tensor]:
        """Return the parameters, and one more that changes nothing, as torchdyn wants some."""
        return [*self.found, self.nothing]

    def __call__(self, u: Tensor, x: Tensor, args: object = None) -> Tensor:
        slope = self.field(time := float(u.detach()), x)
        self.field.require_finite(slope.detach(), time)  # torchdyn never returns from a NaN
        return slope + 0 * self.nothing


def _parameters(field: Field) -> Iterator[Tensor]:
    """Yield the parameters of `field` that gradients are asked of."""
    field = field.network if isinstance(field, GivenField) else field
    if isinstance(field, ComposedField):
        for part in field.parts:
            yield from _parameters(part)
    elif isinstance(field, nn.Module):
        yield from (p for p in field.parameters() if p.requires_grad)
    else:
        expected = "modules, in which the adjoint method finds the parameters"
        raise TypeError(_checks.message("dynamics", type(field).__name__, expected))
