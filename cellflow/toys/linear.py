"""Linear flows, solved by the matrix exponential."""

from __future__ import annotations

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor


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
