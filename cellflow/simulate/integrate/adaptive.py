"""Adaptive integration: torchdyn chooses the steps, behind guards."""

from __future__ import annotations

from typing import Any

import torch

from cellflow._typing import Tensor
from cellflow.simulate.field import IntegrationError, RescaledField
from cellflow.simulate.integration import Limits
from cellflow.simulate.interpolation import THIRD, Cubic, quartic_term, steps_with_rows


def integrate_adaptive(
    field: RescaledField, x: Tensor, *, u: Tensor, solver: str, limits: Limits, out: Tensor
) -> None:
    """Integrate through [0, 1] in steps chosen by the error, and write the states at `u`.

    torchdyn is asked for its accepted steps only, and states between them are our own: its loop
    over requested times may drop rows. A step with output inside costs at most two evaluations
    more. `field` bounds the evaluations and checks its values, since torchdyn's loop never ends
    on a NaN or on a stiff field; tolerances bound the root mean square error of a step.
    """
    nodes, states = _accepted_steps(field, x, solver=solver, limits=limits)
    out[0] = x
    slopes: dict[int, Tensor] = {}
    for i, (here, there, between, end) in enumerate(steps_with_rows(u, nodes)):
        if between.stop > between.start:
            h = there - here
            slopes = {
                j: slopes[j] if j in slopes else field(float(nodes[j]), states[j])
                for j in (i, i + 1)
            }
            cubic = Cubic(states[i], states[i + 1], h * slopes[i], h * slopes[i + 1])
            state, slope = cubic.at(THIRD)
            terms = quartic_term(h * field(here + THIRD * h, state), slope)
            cubic.write((u[between] - here) / h, out[between], terms=terms)
        if end is not None:
            out[end] = states[i + 1]


def _accepted_steps(
    field: RescaledField, x: Tensor, *, solver: str, limits: Limits
) -> tuple[Tensor, Tensor]:
    """Return the nodes ``(k + 1,)``, in float64 on the CPU, and the states there."""
    # Lazily, and never torchdyn.core, which imports Lightning.
    from torchdyn.numerics import odeint

    def rhs(time: Tensor, state: Tensor, args: object = None) -> Tensor:
        return field(float(time), state)

    # In the dtype of the state, or torchdyn's arithmetic would promote the state.
    unit = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
    method = as_solver(solver, x)
    tolerances = {"rtol": limits.rtol, "atol": limits.atol}
    where, states = odeint(rhs, x, unit, solver=method, return_all_eval=True, **tolerances)
    nodes = where.to(device="cpu", dtype=torch.float64)
    if len(nodes) != len(states) or float(nodes[-1]) != 1.0:
        raise IntegrationError(f"Integration stopped at time {field.time(float(nodes[-1])):g}.")
    return nodes, states


def as_solver(solver: str, like: Tensor) -> Any:
    """Return torchdyn's `solver` for states such as `like`."""
    from torchdyn.numerics.solvers.ode import str_to_solver

    method = str_to_solver(solver, like.dtype)
    # torchdyn keeps these in float32 and so rounds every step and stage time of a float64
    # solution to float32, which leaves errors of 1e-9 whatever the tolerance.
    for name in ("safety", "min_factor", "max_factor"):
        setattr(method, name, getattr(method, name).to(like))
    return method
