r"""Entropic optimal transport in the log domain, with Newton steps for small regularisation.

The plan is :math:`P_{ij} = \exp((f_i + g_j - c_{ij}) / \varepsilon)`. Given :math:`g`, the
:math:`f` that makes all rows right is closed-form, which leaves the concave semi-dual in
:math:`g`: its gradient is what the columns lack, its Hessian is
:math:`-(\operatorname{diag}(c) - P^\top \operatorname{diag}(1/a) P) / \varepsilon` with column sums
:math:`c` (Brauer, Clason, Lorenz and Wirth, 2017, "A Sinkhorn–Newton method for entropic optimal
transport", section 2, in its reduced form). Sinkhorn sweeps are cheap but need of the order of
:math:`c / \varepsilon` of them; a few Newton steps do the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.transport.entropic import scaling
from cellflow.transport.entropic.marginals import Side

#: Sinkhorn sweeps between two absorptions of the scalings into the potentials.
SWEEPS = 20
#: Absorptions at one ε before Newton steps take over.
ROUNDS = 3
#: From this fraction of the mean cost on, ε is reached directly; below, step by step from there.
DIRECT, RATIO = 0.02, 8.0
#: What a step on the way leaves to the next one, as L1 error of the columns.
ROUGH = 1e-2
#: Ridges of the Hessian, relative to its diagonal, tried in turn until a step makes progress: where
#: the plan is almost one-to-one the Hessian almost vanishes, and the bare step leads far astray.
RIDGES = (1e-13, 1e-9, 1e-6, 1e-3, 1e-1)
#: Sizes of a step, tried in turn.
STEPS = tuple(0.5**k for k in range(7))


class Solution(NamedTuple):
    """Potentials, the plan that they make, and how it went.

    Parameters
    ----------
    f, g
        Potentials of rows ``(n,)`` and columns ``(m,)``, in units of the cost.
    plan
        The plan, shape ``(n, m)``.
    error
        L1 error of the marginal that is not right by construction.
    iterations
        Sweeps and Newton steps spent.
    """

    f: Tensor
    g: Tensor
    plan: Tensor
    error: float
    iterations: int


def solve(
    cost: Tensor, masses: tuple[Tensor, Tensor], *, epsilon: float, tolerance: float, max_iter: int
) -> Solution:
    """Solve entropic optimal transport.

    Parameters
    ----------
    cost
        Cost matrix, shape ``(n, m)``, float64.
    masses
        Positive masses of rows ``(n,)`` and columns ``(m,)``, float64, each of total one.
    epsilon
        Regularisation, in units of the cost.
    tolerance
        L1 error of the columns that is aimed at (rows are right to rounding).
    max_iter
        Bound on the number of sweeps and Newton steps together.

    Returns
    -------
    The solution; `error` above `tolerance`, or not a number, says that it did not converge.
    """
    if cost.shape[1] > cost.shape[0]:  # Newton steps are cubic in the number of columns
        s = solve(
            cost.T.contiguous(),
            masses[::-1],
            epsilon=epsilon,
            tolerance=tolerance,
            max_iter=max_iter,
        )
        return s._replace(f=s.g, g=s.f, plan=s.plan.T)
    spent = 0
    if cost.device.type == "cpu":
        sides = tuple(Side(mass, float("inf"), False) for mass in masses)
        limits = {"tolerance": tolerance, "max_iter": max_iter}
        fast = scaling.solve(cost, sides, epsilon=epsilon, relative=False, **limits)
        if fast.error <= tolerance or fast.iterations >= max_iter:
            return Solution(*fast)
        spent = fast.iterations
    return _solve(cost, masses, epsilon=epsilon, tolerance=tolerance, budget=(spent, max_iter))


def _solve(
    cost: Tensor,
    masses: tuple[Tensor, Tensor],
    *,
    epsilon: float,
    tolerance: float,
    budget: tuple[int, int],
) -> Solution:
    """Solve in tensors, on any device; `budget` is what was spent and what may be."""
    used, max_iter = budget
    scale = float(cost.mean())
    step = epsilon if epsilon >= DIRECT * scale else max(epsilon, scale / RATIO)
    problem = _Problem(cost, *masses)
    g = torch.zeros_like(masses[1])
    while True:
        aim = tolerance if step <= epsilon else max(ROUGH, tolerance)
        s = _stage(problem, g, epsilon=step, aim=aim, budget=max_iter - used)
        used += s.iterations
        if step <= epsilon or used >= max_iter or not bool(torch.isfinite(s.g).all()):
            error = s.error if step <= epsilon else float("inf")
            return s._replace(iterations=used, error=error)
        g, step = s.g, max(step / RATIO, epsilon)


class _Problem(NamedTuple):
    cost: Tensor
    a: Tensor
    b: Tensor

    def rows(self, g: Tensor, epsilon: float) -> Tensor:
        """Return the f that makes all rows right."""
        return epsilon * (self.a.log() - torch.logsumexp((g[None, :] - self.cost) / epsilon, 1))

    def cols(self, f: Tensor, epsilon: float) -> Tensor:
        """Return the g that makes all columns right."""
        return epsilon * (self.b.log() - torch.logsumexp((f[:, None] - self.cost) / epsilon, 0))

    def solution(self, g: Tensor, epsilon: float, iterations: int) -> Solution:
        """Return the plan of g, its rows right."""
        f = self.rows(g, epsilon)
        plan = torch.exp((f[:, None] + g[None, :] - self.cost) / epsilon)
        error = float((plan.sum(0) - self.b).abs().sum())
        return Solution(f, g, plan, error, iterations)


def _stage(p: _Problem, g: Tensor, *, epsilon: float, aim: float, budget: int) -> Solution:
    """Solve at one ε: sweeps first, then Newton steps, and sweeps again where these fail."""
    s = p.solution(p.cols(p.rows(g, epsilon), epsilon), epsilon, 1)
    for _ in range(ROUNDS):
        if s.error <= aim or s.iterations >= budget:
            return s
        s = _sweeps(p, s, epsilon=epsilon, count=min(SWEEPS, budget - s.iterations))
    while s.error > aim and s.iterations < budget:
        moved = _newton(p, s, epsilon)
        if moved is None:
            moved = _sweeps(p, s, epsilon=epsilon, count=min(SWEEPS, budget - s.iterations))
        s = moved
    return s


def _sweeps(p: _Problem, s: Solution, *, epsilon: float, count: int) -> Solution:
    """Run sweeps as scalings of the plan, which are matrix products, and absorb them."""
    u, v = torch.ones_like(p.a), torch.ones_like(p.b)
    for _ in range(count):
        v = p.b / (u @ s.plan)
        u = p.a / (s.plan @ v)
    g = s.g + epsilon * v.log()
    if not bool(torch.isfinite(g).all()):  # a column underflowed: one sweep in the log domain
        g = p.cols(s.f, epsilon)
    return p.solution(g, epsilon, s.iterations + count)


def _newton(p: _Problem, s: Solution, epsilon: float) -> Solution | None:
    """Take one damped Newton step on the semi-dual; None if there is none to take."""
    total = s.plan.sum(0)
    lack = p.b - total
    # Scaled to a unit diagonal: masses of columns may differ by orders of magnitude.
    root = total.clamp(min=torch.finfo(total.dtype).tiny).rsqrt()
    half = s.plan * (root[None, :] / p.a.sqrt()[:, None])
    hessian = torch.outer(p.b * root, p.b * root).addmm_(half.T, half, alpha=-1.0)
    hessian.diagonal().add_(1.0)
    value = torch.dot(s.f, p.a) + torch.dot(s.g, p.b)
    for ridge in RIDGES:
        hessian.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed):
            continue
        move = epsilon * root * torch.cholesky_solve((lack * root)[:, None], factor)[:, 0]
        slope = torch.dot(lack, move)
        for size in STEPS:
            g = s.g + size * move
            gain = torch.dot(p.rows(g, epsilon), p.a) + torch.dot(g, p.b) - value
            if bool(gain >= 1e-4 * size * slope - 1e-15 * value.abs()):
                return p.solution(g, epsilon, s.iterations + 1)
    return None
