"""Fixed-step integration with dense output."""

from __future__ import annotations

from typing import Protocol

import torch

from cellflow._typing import Tensor
from cellflow.simulate.dense import hermite, rows_by_step
from cellflow.simulate.field import RescaledField


class Step(Protocol):
    """One explicit step of a fixed-step solver."""

    def __call__(
        self, field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float
    ) -> Tensor:
        """Advance `x` ``(n, d)`` from ``u`` to ``u + h``, given the field there."""
        ...


def integrate_fixed(
    field: RescaledField, x: Tensor, *, u: Tensor, step: Step, n_steps: int, out: Tensor
) -> None:
    """Take `n_steps` equal steps through [0, 1] and write the states at `u` into `out`.

    The steps do not depend on `u`: between nodes a cubic is drawn through the states and the
    slopes, which the next step needs in any case.

    Parameters
    ----------
    field
        Right-hand side on the unit interval.
    x
        State at ``u = 0``, ``(n, d)``.
    u
        Output positions from 0 to 1, increasing, ``(T,)`` in float64.
    step
        The solver.
    n_steps
        Number of steps.
    out
        Receives the states, ``(T, n, d)``.

    Raises
    ------
    IntegrationError
        If a state is not finite.
    """
    h = 1.0 / n_steps
    nodes = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    ends = rows_by_step(u, nodes)
    out[0] = x
    row = 1
    slope = field(0.0, x)
    for i in range(n_steps):
        here, there = float(nodes[i]), float(nodes[i + 1])
        new = step(field, x, slope, u=here, h=h)
        field.require_finite(new, there)
        stop = ends[i]
        on_node = stop > row and float(u[stop - 1]) == there
        between = stop - on_node
        if between > row or i + 1 < n_steps:  # the slope at the very end may go unasked
            new_slope = field(there, new)
        if between > row:
            theta = (u[row:between] - here) * n_steps
            hermite(theta, ends=(x, new), slopes=(h * slope, h * new_slope), out=out[row:between])
            if i + 1 == n_steps:
                field.require_finite(new_slope, there)
        if on_node:
            out[stop - 1] = new
        x, row = new, stop
        slope = new_slope if i + 1 < n_steps else slope
