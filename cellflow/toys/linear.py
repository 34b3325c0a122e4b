"""Linear flows, solved by the matrix exponential, and cells that go round on one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.timecourse import TimeCourse


def linear_flow(
    t: float | Tensor, x0: ArrayLike, *, matrix: ArrayLike, offset: ArrayLike | None = None
) -> Tensor:
    r"""Solve :math:`\dot x = A x + b` exactly, from cells `x0` ``(n, d)`` at time 0.

    A is `matrix` ``(d, d)``, per unit of time, and b `offset` ``(d,)``, zero when omitted. Time `t`
    may be negative. In the dtype of `x0`: ``(n, d)`` for a scalar, ``(k, n, d)`` for ``(k,)``.
    """
    x0 = _checks.as_cells(x0, "x0")
    d = x0.shape[1]
    exact = x0.double()
    a = _checks.as_cells(_checks.as_numbers(matrix, "matrix").to(exact), "matrix", dim=d)
    b = _checks.as_numbers([0.0] * d if offset is None else offset, "offset").to(exact)
    if a.shape[0] != d:
        raise ValueError(_checks.message("matrix", f"shape {tuple(a.shape)}", f"shape ({d}, {d})"))
    _checks.as_cells(b.reshape(1, -1), "offset")  # finite numbers
    if b.shape != (d,):
        raise ValueError(_checks.message("offset", f"shape {tuple(b.shape)}", f"shape ({d},)"))
    # One exponential of the augmented generator gives the flow and its inhomogeneous part.
    generator = exact.new_zeros(d + 1, d + 1)
    generator[:d, :d], generator[:d, d] = a, b
    time = _checks.as_numbers(t, "t").to(exact)
    flow = torch.linalg.matrix_exp(time[..., None, None] * generator)
    moved = exact @ flow[..., :d, :d].transpose(-1, -2) + flow[..., None, :d, d]
    if not bool(moved.isfinite().all()):
        raise ValueError(_checks.message("t", "a time of overflow", "one of finite solutions"))
    return moved.to(x0.dtype)


def cycle(
    n: int, times: Sequence[float], *, period: float = 1.0, noise: float = 0.0, generator: Rng = 0
) -> TimeCourse:
    """Draw a course of cells that go round in the plane, with their velocities, in float64.

    At time zero they are normal about ``(3, 0)`` with a standard deviation of 0.3. Seen half a
    `period` apart or more, the shortest way from one snapshot to the next is the wrong one.

    Parameters
    ----------
    n
        Number of cells at each of the `times`, other ones each time.
    times
        Increasing times.
    period
        Time of a turn, to the left; to the right below zero.
    noise
        Standard deviation of the error of velocities, relative to the mean speed.
    generator
        Seed or generator of cells and errors.
    """
    rng = _checks.as_generator(generator)
    noise, speed = _checks.number(noise, "noise", low=0.0), 2 * math.pi / period
    turn = speed * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    centre = torch.tensor([3.0, 0.0], dtype=torch.float64)
    xs, velocities = [], []
    for time in times:
        z, error = torch.randn(2, n, 2, generator=rng, dtype=torch.float64)
        xs.append(linear_flow(time, centre + 0.3 * z, matrix=turn))
        velocities.append(xs[-1] @ turn.T + noise * 3 * abs(speed) * error)
    return TimeCourse.from_arrays(xs, times, velocities=velocities, unit="period")
