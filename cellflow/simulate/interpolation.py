"""States between the nodes of a solver, so that output times cost no steps.

Within a step, ``theta`` runs from 0 to 1 and slopes are times the length of the step. A cubic
goes through both ends with their slopes; multiples of ``(theta * (1 - theta)) ** 2``, which leave
the ends alone, make it more exact: from the stages of an embedded pair, or from a neighbouring node
(:func:`quintic_terms`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from cellflow._typing import Tensor


@dataclass(frozen=True, eq=False)
class Cubic:
    """Cubic through a step: states `x0`, `x1` and slopes `v0`, `v1` at its ends, each ``(n, d)``.

    Slopes are times the length of the step.
    """

    x0: Tensor
    x1: Tensor
    v0: Tensor
    v1: Tensor

    def at(self, theta: float) -> tuple[Tensor, Tensor]:
        """Return state and slope at `theta`, each ``(n, d)``."""
        rest, difference = 1 - theta, self.x1 - self.x0
        state = self.x0 + theta**2 * (3 - 2 * theta) * difference
        state = state + theta * rest**2 * self.v0 - theta**2 * rest * self.v1
        slope = 6 * theta * rest * difference
        slope = slope + rest * (1 - 3 * theta) * self.v0 + theta * (3 * theta - 2) * self.v1
        return state, slope

    def write(self, theta: Tensor, out: Tensor, *, terms: tuple[Tensor, ...] = ()) -> None:
        """Write the states at `theta` ``(m,)`` into `out` ``(m, n, d)``.

        The k-th of `terms`, ``(n, d)``, is the factor of ``(theta * (1 - theta))**2 * theta**k``.
        """
        rest = 1 - theta
        basis = [theta**2 * (3 - 2 * theta), theta * rest**2, -(theta**2) * rest]
        basis += [(theta * rest) ** 2 * theta**k for k in range(len(terms))]
        parts = torch.stack([self.x1 - self.x0, self.v0, self.v1, *terms])
        # Corrections to one end, rather than a weighted sum of both: they are small, and so is
        # their rounding, even where matrix products are allowed a lower precision.
        torch.addmm(
            self.x0.reshape(1, -1),
            torch.stack(basis, dim=1).to(out),
            parts.flatten(1),
            out=out.view(len(theta), -1),
        )


def quintic_terms(cubic: Cubic, theta: float, *, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the terms that lead `cubic` through state `x` and slope `v` at `theta` outside.

    They cost no evaluation, but want a neighbouring step of a similar length, whose other end is at
    `theta`: for equal steps -1 (previous) or 2 (next). Slopes are times the length of the step that
    `cubic` spans. The error is then :math:`O(h^6)`.
    """
    state, slope = cubic.at(theta)
    bump = (theta * (1 - theta)) ** 2
    bump_slope = 2 * theta * (1 - theta) * (1 - 2 * theta)
    constant = (x - state) / bump
    linear = (v - slope - bump_slope * constant) / bump
    return constant - theta * linear, linear


def steps_with_rows(u: Tensor, nodes: Tensor) -> Iterator[tuple[float, float, slice, int | None]]:
    """Give both ends of each step, the rows of outputs between them, and that of the later one.

    Outputs are at `u` ``(T,)``, the first of which belongs to no step, and steps between `nodes`
    ``(k + 1,)``: both are increasing from 0 to 1, in float64.
    """
    ends = torch.searchsorted(u, nodes[1:].contiguous(), right=True).tolist()
    ends[-1] = len(u)
    row = 1
    for (here, there), stop in zip(pairwise(nodes.tolist()), ends, strict=True):
        last = stop - 1 if stop > row and float(u[stop - 1]) == there else None
        yield here, there, slice(row, stop if last is None else last), last
        row = stop
