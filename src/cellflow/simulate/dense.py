"""States between the nodes of a solver, so that output times cost no steps."""

from __future__ import annotations

import torch

from cellflow._typing import Tensor


def hermite(
    theta: Tensor, *, ends: tuple[Tensor, Tensor], slopes: tuple[Tensor, Tensor], out: Tensor
) -> None:
    r"""Write the cubic through two states with their slopes into `out`.

    The error is :math:`h^4 \max |x^{(4)}| / 384`: of the order of a fourth-order solver's own.

    Parameters
    ----------
    theta
        Positions within the step, ``(m,)`` in [0, 1].
    ends
        States at both ends of the step, each ``(n, d)``.
    slopes
        Derivatives there, times the length of the step, each ``(n, d)``.
    out
        Receives the states, ``(m, n, d)``.
    """
    theta = theta.to(out)[:, None, None]
    rest = 1 - theta
    # Relative to the nearer end nothing but a small correction is rounded.
    out.copy_(ends[0].expand_as(out))
    out.addcmul_(theta.square() * (3 - 2 * theta), ends[1] - ends[0])
    out.addcmul_(theta * rest.square(), slopes[0])
    out.addcmul_(-theta.square() * rest, slopes[1])


def rows_by_step(u: Tensor, nodes: Tensor) -> list[int]:
    """Return, for each step, the end of its rows: those in ``(nodes[i], nodes[i + 1]]``.

    `u` ``(T,)`` and `nodes` ``(k + 1,)`` are increasing from 0 to 1, both in float64.
    """
    ends = torch.searchsorted(u, nodes[1:].contiguous(), right=True).tolist()
    ends[-1] = len(u)
    return ends
