r"""Entropic transport of many small problems at once, in tensors on any device.

The problem, its semi-dual and its sweeps are those of
:mod:`cellflow.transport.entropic.unbalanced`, for a batch of B problems of one size. All go
through as many stages, each from its own first regularisation to its own last one. What has
converged is frozen: only the rest is computed. Where sweeps do not suffice, batched Cholesky
factorisations make Newton steps, each problem with its own ridge and its own step size.

A batch takes ``O(B n m)`` memory, some four matrices a problem.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.transport.entropic.marginals import Sides

#: From this fraction of the mean cost on, ε is reached directly; below, by factors of RATIO from
#: FIRST on.
DIRECT, FIRST, RATIO = 0.02, 0.125, 5.0
#: What a stage on the way leaves to the next one, as L1 error of the columns.
ROUGH = 1e-2
#: Sweeps before Newton steps, and again where one fails.
SWEEPS = 20
#: First ridge of the Hessian, relative to its diagonal; its growth where a step leads nowhere.
RIDGE, GROWTH = 1e-12, 1e3
#: Entries of the matrices of a batch.
ENTRIES = 2**25


class Batch(NamedTuple):
    """Potentials and plans of a batch, and how each problem went.

    Parameters
    ----------
    f, g
        Potentials, shapes ``(B, n)`` and ``(B, m)``, in units of the cost.
    plan
        Plans, shape ``(B, n, m)``.
    error
        L1 error of the columns, relative to the mass of the plan, shape ``(B,)``.
    iterations
        Sweeps and Newton steps that the slowest problem took.
    """

    f: Tensor
    g: Tensor
    plan: Tensor
    error: Tensor
    iterations: int


def solve(
    cost: Tensor,
    sides: tuple[Sides, Sides],
    *,
    epsilon: Tensor,
    relative: bool,
    tolerance: float,
    max_iter: int,
) -> Batch:
    """Solve entropic transport with exact or soft marginals, many problems at once.

    Parameters
    ----------
    cost
        Cost matrices, shape ``(B, n, m)``, float64.
    sides
        The marginals of rows and of columns.
    epsilon
        Regularisations, in units of the cost, shape ``(B,)``.
    relative
        Whether the entropy is relative to the product of the reference masses.
    tolerance
        Error of the columns that is aimed at.
    max_iter
        Bound on the number of sweeps and Newton steps together, for each problem.

    Returns
    -------
    Where each problem got; an error above `tolerance` says that it did not converge.
    """
    if cost.shape[2] > cost.shape[1]:  # Newton steps are cubic in the number of columns
        limits = {"tolerance": tolerance, "max_iter": max_iter}
        turned = cost.mT.contiguous()
        s = solve(turned, sides[::-1], epsilon=epsilon, relative=relative, **limits)
        return s._replace(f=s.g, g=s.f, plan=s.plan.mT)
    scale = cost.mean((1, 2))
    first = torch.where(epsilon >= DIRECT * scale, epsilon, (FIRST * scale).maximum(epsilon))
    fall = (first / epsilon).log()
    stages = math.ceil(float(fall.max()) / math.log(RATIO) - 1e-9)
    g, used = torch.zeros_like(sides[1].mass), 0
    for stage in range(stages + 1):
        rest = (stages - stage) / max(stages, 1)
        step = epsilon * (rest * fall).exp()
        left, right = (side.units(step) for side in sides)
        scaled = cost / step[:, None, None]
        if relative:
            scaled -= left.mass.log()[:, :, None] + right.mass.log()[:, None, :]
        rough = (fall * rest > 0) & (max(ROUGH, tolerance) > tolerance)
        aim = torch.full_like(epsilon, tolerance).masked_fill(rough, ROUGH)
        s = _stage(_Problems(scaled, left, right), g / step[:, None], aim, max_iter - used)
        used += s.iterations
        g = torch.where(s.g.isfinite().all(1, keepdim=True), s.g * step[:, None], g)
        if stage < stages and used >= max_iter:
            short = torch.where(fall > 0, math.inf, s.error)
            return s._replace(f=s.f * step[:, None], g=g, error=short, iterations=used)
    return s._replace(f=s.f * step[:, None], g=g, iterations=used)


class _Problems(NamedTuple):
    """Problems in units of their regularisation."""

    cost: Tensor
    left: Sides
    right: Sides

    def subset(self, index: Tensor) -> _Problems:
        if len(index) == len(self.cost):
            return self
        return _Problems(self.cost[index], self.left.subset(index), self.right.subset(index))

    def rows(self, g: Tensor) -> Tensor:
        """Return the best potentials of the rows given those of the columns."""
        total = torch.logsumexp(g[:, None, :] - self.cost, 2)
        return self.left.potential(self.left.mass.log() - total)

    def cols(self, f: Tensor) -> Tensor:
        """Return the best potentials of the columns given those of the rows."""
        total = torch.logsumexp(f[:, :, None] - self.cost, 1)
        return self.right.potential(self.right.mass.log() - total)

    def swept(self, g: Tensor, count: int) -> Tensor:
        """Return the columns' potentials after some sweeps."""
        left, right = self.left, self.right
        shifts = not left.clipped and not (left.exact and right.exact)
        for _ in range(count):
            f = self.rows(g)
            if shifts:
                logs = [
                    torch.logsumexp(side.mass.log() - z / side.rho[:, None], 1)
                    for side, z in ((left, f), (right, g))
                ]
                f = f + ((logs[0] - logs[1]) / (1 / left.rho + 1 / right.rho))[:, None]
            g = self.cols(f)
        return g

    def state(self, g: Tensor, iterations: int) -> Batch:
        """Return the plans of `g`, with the best potentials of the rows."""
        f = self.rows(g)
        plan = torch.exp(f[:, :, None] + g[:, None, :] - self.cost)
        attained = plan.sum(1)
        lack = self.right.lack(g, attained).abs().sum(1)
        total = attained.sum(1).clamp(min=torch.finfo(plan.dtype).tiny)
        return Batch(f, g, plan, lack / total, iterations)


def _stage(p: _Problems, g: Tensor, aim: Tensor, budget: int) -> Batch:
    """Solve at one regularisation each: sweeps first, Newton steps where they do not suffice."""
    s = p.state(p.cols(p.rows(g)), 1)
    ridge = torch.full_like(aim, RIDGE)
    swept = False
    while s.iterations < budget:
        index = (~(s.error <= aim)).nonzero()[:, 0]
        if len(index) == 0:
            break
        part = p.subset(index)
        count = min(SWEEPS, budget - s.iterations)
        if not swept:
            new = part.state(part.swept(s.g[index], count), count)
            swept = True
        else:
            old = _take(s, index)
            new, moved = _newton(part, old, ridge[index])
            ridge[index] = torch.where(moved, ridge[index] / GROWTH, ridge[index] * GROWTH)
            ridge.clamp_(RIDGE, 1e3)
            stuck = (~moved).nonzero()[:, 0]
            if len(stuck):
                few = part.subset(stuck)
                _put(new, stuck, few.state(few.swept(old.g[stuck], count), 0))
                new = new._replace(iterations=count)
        _put(s, index, new)
        s = s._replace(iterations=s.iterations + new.iterations)
    return s


def _take(s: Batch, index: Tensor) -> Batch:
    """Return what some problems got to."""
    return Batch(s.f[index], s.g[index], s.plan[index], s.error[index], 0)


def _put(s: Batch, index: Tensor, part: Batch) -> None:
    """Write what some problems got to."""
    for whole, values in zip(s[:4], part[:4], strict=True):
        whole[index] = values


def _newton(p: _Problems, s: Batch, ridge: Tensor) -> tuple[Batch, Tensor]:
    """Take one damped Newton step each; return also who moved."""
    total = s.plan.sum(1)
    lack = p.right.lack(s.g, total)
    diagonal = total + p.right.curvature(s.g)
    root = diagonal.clamp(min=torch.finfo(total.dtype).tiny).rsqrt()
    root = root.masked_fill(p.right.held(s.g, lack), 0.0)
    rows = s.plan.sum(2).clamp(min=torch.finfo(total.dtype).tiny)
    half = s.plan * (p.left.slope(s.f) / rows).sqrt()[:, :, None] * root[:, None, :]
    hessian = half.mT @ half
    hessian.neg_().diagonal(dim1=1, dim2=2).add_(1.0 + ridge[:, None])
    if p.left.exact and p.right.exact:  # constants change nothing: they are fixed
        fixed = p.right.mass * root
        hessian += fixed[:, :, None] * fixed[:, None, :]
    factor, failed = torch.linalg.cholesky_ex(hessian)
    move = root * torch.cholesky_solve((lack * root)[:, :, None], factor)[:, :, 0]
    good = (failed == 0) & move.isfinite().all(1)
    move = torch.where(good[:, None], move, 0.0)
    moved, size = ~good, 1.0  # no step is tried where there is none
    out = Batch(s.f.clone(), s.g.clone(), s.plan.clone(), s.error.clone(), 1)
    for _ in range(8):
        index = (~moved).nonzero()[:, 0]
        if len(index) == 0:
            break
        few = p.subset(index)
        old = _take(s, index)
        new = few.state(few.right.clip(old.g + size * move[index]), 0)
        rises = _rises(few, old, new, lack[index])
        _put(out, index[rises], _take(new, rises))
        moved[index[rises]] = True
        size *= 0.5
    return out, moved & good


def _rises(p: _Problems, old: Batch, new: Batch, lack: Tensor) -> Tensor:
    """Whether the semi-dual rises as it should."""
    rest = old.plan.sum((1, 2)) - new.plan.sum((1, 2))
    left, right = p.left.gain(old.f, new.f), p.right.gain(old.g, new.g)
    slope = (lack * (new.g - old.g)).sum(1)
    slack = 1e-14 * (left.abs() + right.abs() + rest.abs() + old.plan.sum((1, 2)))
    return new.error.isfinite() & (left + right + rest >= 1e-4 * slope - slack)
