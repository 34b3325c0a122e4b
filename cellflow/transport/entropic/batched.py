"""Entropic transport of B ≥ 1 problems of one size, in tensors on any device.

The problem, its semi-dual and its sweeps are those of :mod:`cellflow.transport.entropic.solve`. All
problems go through as many stages, each from its own first regularisation to its own last one. What
has converged is frozen: only the rest is computed. Where sweeps do not suffice, batched Cholesky
factorisations make Newton steps, each problem with its own ridge and its own step size.
A batch takes ``O(B n m)`` memory, some four matrices a problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.transport.entropic.marginals import Marginals, Problem, Solution

#: From this fraction of the mean cost on, ε is reached directly; below, by factors of RATIO from
#: FIRST on.
DIRECT, FIRST, RATIO = 0.02, 0.125, 5.0
#: What a stage on the way leaves to the next one, as L1 error of the columns.
ROUGH = 1e-2
#: Sweeps before Newton steps, and again where one fails; and halvings of a step that are tried.
SWEEPS, HALVINGS = 20, 8
#: First ridge of the Hessian, relative to its diagonal; its growth where a step leads nowhere.
RIDGE, GROWTH = 1e-12, 1e3
#: Entries of the matrices of a batch.
ENTRIES = 2**25


def solve_batch(problems: Sequence[Problem], *, tolerance: float, max_iter: int) -> list[Solution]:
    """Solve B problems of one size ``(n, m)`` as :func:`solve` does one, each by itself.

    `max_iter` bounds the sweeps and Newton steps of each; `iterations` are those of the slowest.
    Potentials are finite whatever happens.
    """
    if not problems:
        return []
    n, m = problems[0].cost.shape
    if m > n:  # Newton steps are cubic in the number of columns
        turned = [p.transposed() for p in problems]
        return [s.transposed() for s in solve_batch(turned, tolerance=tolerance, max_iter=max_iter)]
    cost = torch.stack([p.cost for p in problems])
    marginals = Marginals.stack([p.marginals for p in problems])
    epsilon = cost.new_tensor([p.epsilon for p in problems])
    scale = cost.mean((1, 2))
    first = torch.where(epsilon >= DIRECT * scale, epsilon, (FIRST * scale).maximum(epsilon))
    fall = (first / epsilon).log()
    stages = math.ceil(float(fall.max()) / math.log(RATIO) - 1e-9)
    g, used = torch.zeros_like(marginals.cols.mass), 0
    for stage in range(stages + 1):
        rest = (stages - stage) / max(stages, 1)
        step = (epsilon * (rest * fall).exp())[:, None]
        rough = (fall * rest > 0) & (max(ROUGH, tolerance) > tolerance)
        aim = torch.full_like(epsilon, tolerance).masked_fill(rough, ROUGH)
        s = _stage(_problems(cost, marginals, step), g / step, aim, max_iter - used)
        used += s.iterations
        g = torch.where(s.g.isfinite().all(1, keepdim=True), s.g * step, g)
        if used >= max_iter:
            break
    lost = (fall * rest > 0) | ~(s.f.isfinite().all(1) & s.g.isfinite().all(1))
    f = s.f * step
    if bool(lost.any()):
        last = epsilon[:, None]
        best = _problems(cost, marginals, last).rows(g / last) * last
        f = torch.where(lost[:, None], best, f)
    error = s.error.masked_fill(lost, math.inf).tolist()
    parts = zip(f, g, error, s.plan, strict=True)
    return [Solution(f, g, error, used, plan) for f, g, error, plan in parts]


class _Batch(NamedTuple):
    """Potentials ``(B, n)`` and ``(B, m)``, plans, and errors ``(B,)``."""

    f: Tensor
    g: Tensor
    plan: Tensor
    error: Tensor
    iterations: int


class _Problems(NamedTuple):
    """Problems in units of their regularisation."""

    cost: Tensor
    marginals: Marginals

    def subset(self, index: Tensor) -> _Problems:
        if len(index) == len(self.cost):
            return self
        return _Problems(self.cost[index], self.marginals.subset(index))

    def rows(self, g: Tensor) -> Tensor:
        """Return the best potentials of the rows given those of the columns."""
        rows = self.marginals.rows
        return rows.potential(rows.mass.log() - torch.logsumexp(g[:, None, :] - self.cost, 2))

    def cols(self, f: Tensor) -> Tensor:
        """Return the best potentials of the columns given those of the rows."""
        cols = self.marginals.cols
        return cols.potential(cols.mass.log() - torch.logsumexp(f[:, :, None] - self.cost, 1))

    def shift(self, f: Tensor, g: Tensor) -> Tensor | float:
        """Return the best translation λ of ``(f + λ, g − λ)``, shape ``(B, 1)``."""
        rows, cols = self.marginals.rows, self.marginals.cols
        if self.marginals.exact:
            return 0.0
        logs = [
            torch.logsumexp(side.mass.log() - potential / side.rho, 1, keepdim=True)
            for side, potential in ((rows, f), (cols, g))
        ]
        return (logs[0] - logs[1]) / (1 / rows.rho + 1 / cols.rho)

    def swept(self, g: Tensor, count: int) -> Tensor:
        """Return the columns' potentials after some sweeps."""
        for _ in range(count):
            f = self.rows(g)
            g = self.cols(f + self.shift(f, g))
        return g

    def state(self, g: Tensor, iterations: int) -> _Batch:
        """Return the plans of `g`, with the best potentials of the rows."""
        f = self.rows(g)
        plan = torch.exp(f[:, :, None] + g[:, None, :] - self.cost)
        attained = plan.sum(1)
        residual = (self.marginals.cols.target(g) - attained).abs().sum(1)
        total = attained.sum(1).clamp(min=torch.finfo(plan.dtype).tiny)
        return _Batch(f, g, plan, residual / total, iterations)


def _problems(cost: Tensor, marginals: Marginals, epsilon: Tensor) -> _Problems:
    scaled = marginals.scaled(epsilon)
    return _Problems(scaled.reference(cost / epsilon[:, :, None], 1.0), scaled)


def _stage(p: _Problems, g: Tensor, aim: Tensor, budget: int) -> _Batch:
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


def _take(s: _Batch, index: Tensor) -> _Batch:
    """Return what some problems got to."""
    return _Batch(s.f[index], s.g[index], s.plan[index], s.error[index], 0)


def _put(s: _Batch, index: Tensor, part: _Batch) -> None:
    """Write what some problems got to."""
    for whole, values in zip(s[:4], part[:4], strict=True):
        whole[index] = values


def _newton(p: _Problems, s: _Batch, ridge: Tensor) -> tuple[_Batch, Tensor]:
    """Take one damped Newton step each; return also which problems moved."""
    total = s.plan.sum(1)
    rows, cols = p.marginals.rows, p.marginals.cols
    residual = cols.target(s.g) - total
    diagonal = total + cols.curvature(s.g)
    root = diagonal.clamp(min=torch.finfo(total.dtype).tiny).rsqrt()
    sums = s.plan.sum(2).clamp(min=torch.finfo(total.dtype).tiny)
    half = s.plan * (rows.slope(s.f) / sums).sqrt()[:, :, None] * root[:, None, :]
    hessian = half.mT @ half
    hessian.neg_().diagonal(dim1=1, dim2=2).add_(1.0 + ridge[:, None])
    if p.marginals.exact:  # constants change nothing: they are fixed
        fixed = cols.mass * root
        hessian += fixed[:, :, None] * fixed[:, None, :]
    factor, failed = torch.linalg.cholesky_ex(hessian)
    move = root * torch.cholesky_solve((residual * root)[:, :, None], factor)[:, :, 0]
    good = (failed == 0) & move.isfinite().all(1)
    move = torch.where(good[:, None], move, 0.0)
    moved, size = ~good, 1.0  # no step is tried where there is none
    out = _Batch(s.f.clone(), s.g.clone(), s.plan.clone(), s.error.clone(), 1)
    for _ in range(HALVINGS):
        index = (~moved).nonzero()[:, 0]
        if len(index) == 0:
            break
        few = p.subset(index)
        old = _take(s, index)
        new = few.state(old.g + size * move[index], 0)
        rises = _rises(few, old, new, residual[index])
        _put(out, index[rises], _take(new, rises))
        moved[index[rises]] = True
        size *= 0.5
    return out, moved & good


def _rises(p: _Problems, old: _Batch, new: _Batch, residual: Tensor) -> Tensor:
    """Whether the semi-dual rises as it should."""
    rest = old.plan.sum((1, 2)) - new.plan.sum((1, 2))
    left, right = p.marginals.rows.gain(old.f, new.f), p.marginals.cols.gain(old.g, new.g)
    slope = (residual * (new.g - old.g)).sum(1)
    slack = 1e-14 * (left.abs() + right.abs() + rest.abs() + old.plan.sum((1, 2)))
    return new.error.isfinite() & (left + right + rest >= 1e-4 * slope - slack)
