"""Velocities of cells from their partners before and after: splines along chains of plans."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.couplings.coupling import Coupling, CouplingLike, as_coupling
from cellflow.plans.forms import PairPlan
from cellflow.strata import links
from cellflow.timecourse import Snapshot, TimeCourse

#: Sweeps over the course: each at least halves the error, so that these reach float64.
_SWEEPS = 60


def spline_rates(
    course: TimeCourse, coupling: CouplingLike, *, block_size: int = 1024, generator: Rng = 0
) -> Tensor:
    r"""Velocity of each cell on the natural cubic spline along a chain of plans.

    Consecutive plans make a Markov chain of cells through all snapshots, or all of a stratum. On
    one chain, the natural cubic spline has velocities :math:`m_k` that solve

    .. math:: 2 (w_k + w_{k+1})\, m_k = w_k (3 d_k - m_{k-1}) + w_{k+1} (3 d_{k+1} - m_{k+1})

    with :math:`d_k` the mean velocity over interval `k` and :math:`w_k` one over its span; at an
    end the missing side drops out. This is the solution with every neighbour replaced by the mean
    over a cell's partners. Where plans are one to one it is the spline itself, as in multi-marginal
    flow matching :cite:`rohbeck2025`; otherwise it has the mean of the neighbours that a chain
    passes through, in one linear system instead of one for each drawn chain.

    The `coupling` may be a function from two snapshots to a plan. Snapshots of the `course` that
    are larger than `block_size` are coupled in random blocks of at most this size, drawn by a seed
    or `generator`; with two snapshots all chains are straight.
    Velocities are those of the cells of ``course.x``, in data units per unit of time, of shape
    ``(sum n_k, d)``; zero for a cell without partners.
    """
    _checks.count(block_size, "block_size", low=2)
    coupling = as_coupling(coupling)
    rng = _checks.as_generator(generator)
    # Plans are solved in float64, which an mps device lacks.
    cells = course.to("cpu") if course.x.device.type == "mps" else course
    cells = cells.to(dtype=torch.float64)
    size = None if coupling.needs_whole else block_size
    between = links(cells)
    plans = [_link(link.source, link.target, (coupling, size, rng)) for link in between]
    sides = [
        (near, far, plan, forward, link.target.time - link.source.time)
        for plan, link in zip(plans, between, strict=True)
        for near, far, forward in ((link.rows, link.cols, True), (link.cols, link.rows, False))
    ]
    x = cells.x
    fixed, weight = torch.zeros_like(x), x.new_zeros(len(x), 1)
    for near, far, plan, forward, span in sides:
        mean, paired = plan.mean(x[far], forward)
        fixed[near] += 3 * (1 if forward else -1) * paired * (mean - x[near]) / span**2
        weight[near] += 2 * paired / span
    weight = torch.where(weight > 0, weight, 1.0)
    rates = fixed / weight
    for _ in range(_SWEEPS):
        # Rows sum to at most half the diagonal, so that this contracts by two.
        rest = fixed.clone()
        for near, far, plan, forward, span in sides:
            rest[near] -= plan.mean(rates[far], forward)[0] / span
        rates = rest / weight
    return rates.to(course.x)


@dataclass(frozen=True, eq=False)
class _Link:
    """Plans between blocks of two snapshots, as ``(rows, cols, matrix)``, and their sizes."""

    blocks: list[tuple[Tensor, Tensor, Tensor]]
    size: tuple[int, int]

    def mean(self, values: Tensor, forward: bool) -> tuple[Tensor, Tensor]:
        """Mean of `values` over the partners of each cell, and whether it has any, ``(n, 1)``."""
        n = self.size[0] if forward else self.size[1]
        out, mass = values.new_zeros(n, values.shape[1]), values.new_zeros(n, 1)
        ones = values.new_ones(len(values), 1)
        for rows, cols, matrix in self.blocks:
            near, far, plan = (rows, cols, matrix) if forward else (cols, rows, matrix.T)
            out[near], mass[near] = plan @ values[far], plan @ ones[far]
        paired = mass > 0
        return out / torch.where(paired, mass, 1.0), paired.to(values)


def _link(
    source: Snapshot, target: Snapshot, how: tuple[Coupling, int | None, torch.Generator]
) -> _Link:
    coupling, size, rng = how
    n, m = len(source), len(target)
    blocks = 1 if size is None else min(math.ceil(max(n, m) / size), n, m)
    if blocks == 1:
        parts = [(torch.arange(n), torch.arange(m))]
    else:
        left = torch.randperm(n, generator=rng, device=rng.device).tensor_split(blocks)
        right = torch.randperm(m, generator=rng, device=rng.device).tensor_split(blocks)
        parts = list(zip(left, right, strict=True))
    out = []
    for rows, cols in parts:
        rows, cols = rows.to(source.x.device), cols.to(source.x.device)
        plan = coupling(source.subset(rows), target.subset(cols))
        if isinstance(plan, PairPlan):
            index = torch.stack([plan.rows, plan.cols])
            matrix = torch.sparse_coo_tensor(index, plan.mass, plan.shape, check_invariants=False)
        else:
            matrix = plan.dense()
        out.append((rows, cols, matrix.to(source.x)))
    return _Link(out, (n, m))
