"""Exact optimal transport for the half squared distance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs import half_squared_distance
from cellflow.couplings._pair import centred, pair_plan, permutation_plan
from cellflow.plans.forms import PairPlan
from cellflow.timecourse import Snapshot
from cellflow.transport.assignment.solve import assign_blocks

#: Duality gap, relative to the cost, up to which a plan counts as optimal.
GAP = 1e-9


@dataclass(frozen=True)
class Exact:
    r"""Pair cells by optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`.

    As many source as target cells, all of equal mass, are assigned one to one
    (:mod:`cellflow.transport.assignment.solve`); anything else goes to the network simplex of
    POT, which splits cells. Both run on the CPU in float64, and both are certified by their dual
    potentials: `converged` says that the duality gap is below 1e-9 of the cost.

    Parameters
    ----------
    max_iter
        Bound on the pivots of the network simplex; ``100_000 + 1_000 (n + m)`` when omitted,
        several times what it needs: 2,400 × 4,200 cells take two seconds. (At POT's own default
        the plan is 1–2 % off above some thousand cells, with no more than a warning.)

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0], [5.0]])
    >>> plan = Exact()(Snapshot(x, 0.0), Snapshot(x.flip(0) + 2.0, 1.0))
    >>> plan.cols.tolist(), plan.cost, plan.is_permutation
    ([2, 1, 0], 2.0, True)
    """

    #: Plans are made on the CPU, wherever the cells are.
    on_cpu: ClassVar[bool] = True

    max_iter: int | None = None

    def __post_init__(self) -> None:
        if self.max_iter is not None:
            _checks.count(self.max_iter, "max_iter")

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        """Couple two snapshots.

        Parameters
        ----------
        source, target
            Snapshots of n and m cells.

        Returns
        -------
        The plan, on the device of the cells: n pairs when one-to-one, else at most n + m − 1.

        Raises
        ------
        TypeError, ValueError
            If the snapshots do not fit each other.
        """
        x, y = centred(source, target)
        n, m = len(x), len(y)
        a, b = source.weights, target.weights
        if n == m and source.is_uniform and target.is_uniform:
            return _assign_many(x[None], y[None])[0]
        bound = 100_000 + 1_000 * (n + m) if self.max_iter is None else self.max_iter
        rows, cols, mass, converged = network_simplex(a, b, _cost(x, y), max_iter=bound)
        return pair_plan((rows, cols, mass), (x, y), (a, b), converged=converged)

    def many(self, sources: Sequence[Snapshot], targets: Sequence[Snapshot]) -> list[PairPlan]:
        """Couple each source with its target: the same plans, faster where blocks are alike.

        Parameters
        ----------
        sources, targets
            As many snapshots of either kind.
        """
        shapes = {s.x.shape for s in (*sources, *targets)}
        if len(shapes) != 1 or not all(s.is_uniform for s in (*sources, *targets)):
            return [self(source, target) for source, target in zip(sources, targets, strict=True)]
        cells = [centred(source, target) for source, target in zip(sources, targets, strict=True)]
        return _assign_many(*(torch.stack(side) for side in zip(*cells, strict=True)))


def _assign_many(x: Tensor, y: Tensor) -> list[PairPlan]:
    """Assign cells one to one in each of B blocks ``(B, n, d)``, certified by their duals."""
    device, moved = x.device, y.mean(1, keepdim=True) - x.mean(1, keepdim=True)
    size = (x.square() + y.square()).sum((1, 2))
    # Of clouds at one point the centring leaves rounding, which no gap is measured by.
    rounding = torch.finfo(x.dtype).eps ** 2 * size
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    found, dual = assign_blocks(x.cpu().numpy(), y.cpu().numpy())
    cols = torch.as_tensor(found, device=device)
    gaps = x - torch.take_along_dim(y, cols[..., None], 1)
    primal = 0.5 * gaps.square().sum((1, 2))
    spread = (x.square() + y.square()).sum((1, 2))
    allowed = GAP * (primal + 1e-6 * spread) + 16 * rounding
    optimal = primal - torch.as_tensor(dual, device=device) <= allowed
    costs = primal / x.shape[1] + 0.5 * moved.square().sum((1, 2))
    return [
        permutation_plan(c, cost=cost, converged=good)
        for c, cost, good in zip(cols, costs.tolist(), optimal.tolist(), strict=True)
    ]


def _cost(x: Tensor, y: Tensor) -> Tensor:
    """Cost between clouds centred each on its own mean: same plan, no digits lost to distance."""
    return half_squared_distance(x - x.mean(0), y - y.mean(0))


def network_simplex(
    a: Tensor, b: Tensor, cost: Tensor, *, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Run POT's network simplex; return rows, cols, mass and whether duals certify them."""
    import ot

    p, q, c = (value.cpu().numpy() for value in (a, b, cost / _power_of_two(float(cost.max()))))
    with warnings.catch_warnings():
        # Its only warning is that the bound was hit; the certificate below says so for certain.
        warnings.filterwarnings("ignore", message="numItermax reached")
        matrix, log = ot.emd(p, q, c, numItermax=max_iter, log=True)
    rows, cols = np.nonzero(matrix)
    mass = matrix[rows, cols]
    mass /= mass.sum()  # one already, unless the bound was hit
    primal, dual = float(mass @ c[rows, cols]), float(p @ log["u"] + q @ log["v"])
    slack = float((c - log["u"][:, None] - log["v"][None, :]).min())
    scale = max(primal, GAP * float(c.max()))
    converged = log["warning"] is None and abs(primal - dual) <= GAP * scale
    converged = converged and slack >= -GAP * float(c.max())
    left, right, share = (torch.as_tensor(v, device=cost.device) for v in (rows, cols, mass))
    return left, right, share, bool(converged)


def _power_of_two(value: float) -> float:
    """Return that just below `value`: dividing by it keeps every digit.

    The solver's tolerances are absolute ones.
    """
    return math.ldexp(1.0, math.frexp(value)[1] - 1)
