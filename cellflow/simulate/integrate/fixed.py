"""Fixed-step integration with dense output."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.interpolation import Cubic, quintic_terms, steps_with_rows
from cellflow.simulate.solver import Step


def integrate_fixed(
    field: RescaledField, x: Tensor, *, u: Tensor, step: Step, n_steps: int, out: Tensor
) -> None:
    """Take `n_steps` equal steps through [0, 1] and write the states at `u` into `out`.

    The steps do not depend on `u`: states between the nodes are those of the quintic through a
    step and its neighbour. It takes the slopes that the steps need in any case.
    """
    h = 1.0 / n_steps
    nodes = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    out[0] = x
    slope = field(0.0, x)
    previous: tuple[Tensor, Tensor] | None = None
    first: tuple[Cubic, Tensor, Tensor] | None = None  # waits for its neighbour, the second step
    for here, there, between, end in steps_with_rows(u, nodes):
        new = step(field, x, slope, u=here, h=h)
        field.require_finite(new, there)
        field.advance(there)
        if end is not None:
            out[end] = new
        inside = between.stop > between.start
        if there == 1 and not inside and first is None:
            break  # the last slope is not needed
        new_slope = field(there, new)
        if there == 1:
            field.require_finite(new_slope, there)
        if first is not None:
            cubic, theta, target = first
            terms = quintic_terms(cubic, 2.0, x=new, v=h * new_slope)
            cubic.write(theta, target, terms=terms)
            first = None
        if inside:
            theta, target = (u[between] - here) * n_steps, out[between]
            cubic = Cubic(x, new, h * slope, h * new_slope)
            if previous is not None:
                terms = quintic_terms(cubic, -1.0, x=previous[0], v=h * previous[1])
                cubic.write(theta, target, terms=terms)
            elif n_steps == 1:
                cubic.write(theta, target)
            else:
                first = (cubic, theta, target)
        previous = (x, slope)
        x, slope = new, new_slope
