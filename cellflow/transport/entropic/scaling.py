"""Entropic transport between few cells on the CPU: sweeps and inexact Newton steps, compiled.

The problem and its semi-dual are those of :mod:`cellflow.transport.entropic.unbalanced`; what
differs is how the Newton system is solved. Conjugate gradients on the plan need no factorisation
where the plan is spread out; where they stall, one Cholesky factor of the Hessian preconditions
them for as long as it helps, over several Newton steps. The regularisation falls to the one asked
for by factors of five, and the potentials are extrapolated along the way.

A plan of n × m cells takes ``O(n m)`` memory, some tens of passes over it, and a factorisation of
``O(n m² + m³)`` where they stall.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cellflow._typing import Tensor
from cellflow.transport.entropic.marginals import Side

#: From this fraction of the mean cost on, ε is reached directly; below, step by step from FIRST.
DIRECT, FIRST, RATIO = 0.02, 0.125, 5.0
#: What a step on the way leaves to the next one, as L1 error of the columns.
ROUGH = 1e-2


class Scaled(NamedTuple):
    """Potentials, the plan that they make, and how it went.

    Parameters
    ----------
    f, g
        Potentials of rows ``(n,)`` and columns ``(m,)``, in units of the cost.
    plan
        The plan, shape ``(n, m)``; what is below 2e-16 of its row's largest entry is zero.
    error
        L1 error of the columns against what their potentials ask for, relative to the mass of the
        plan; infinite if the regularisation asked for was not reached.
    iterations
        Sweeps and Newton steps spent.
    """

    f: Tensor
    g: Tensor
    plan: Tensor
    error: float
    iterations: int


def solve(
    cost: Tensor,
    sides: tuple[Side, Side],
    *,
    epsilon: float,
    relative: bool,
    tolerance: float,
    max_iter: int,
) -> Scaled:
    """Solve entropic transport with exact or soft marginals.

    Parameters
    ----------
    cost
        Cost matrix, shape ``(n, m)`` with ``n ≥ m`` for speed, float64, on the CPU.
    sides
        The marginals of rows and of columns.
    epsilon
        Regularisation, in units of the cost.
    relative
        Whether the entropy is relative to the product of the reference masses.
    tolerance
        Error of the columns that is aimed at.
    max_iter
        Bound on the number of sweeps and Newton steps together.

    Returns
    -------
    What was reached. An error above `tolerance` before `max_iter` means that steps led nowhere.
    """
    from cellflow.transport.entropic import _compiled

    c = np.ascontiguousarray(cost.numpy())
    scale = float(c.mean())
    step = epsilon if epsilon >= DIRECT * scale else max(epsilon, scale * FIRST)
    g = np.zeros(c.shape[1])
    before: tuple[np.ndarray, float] | None = None
    used, hessian = 0, np.empty((0, 0))
    while True:
        left, right = (_side(side, step, relative) for side in sides)
        scaled = g / step
        aim = tolerance if step <= epsilon else max(ROUGH, tolerance)
        error, spent, f, plan, hessian = _compiled.stage(
            c, 1.0 / step, left, right, scaled, aim, max_iter - used, hessian
        )
        used += spent
        now = scaled * step
        if step <= epsilon or used >= max_iter or not error <= aim:
            reached = error if step <= epsilon else float("inf")
            return Scaled(_tensor(f * step), _tensor(now), _tensor(plan), reached, used)
        new = max(step / RATIO, epsilon)
        g = now
        if before is not None:  # along the path that the potentials take as ε falls
            g = now + (now - before[0]) * ((new - step) / (step - before[1]))
        before, step = (now, step), new


def _side(side: Side, epsilon: float, relative: bool) -> tuple:
    """Return a side in units of the regularisation, as the kernels take it."""
    mass = side.mass.numpy()
    log = np.log(mass)
    reference = log if relative else np.zeros_like(log)
    return mass, log, reference, side.rho / epsilon, side.clipped


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)
