r"""Entropic optimal transport with soft marginals, in the log domain.

Minimised over plans :math:`\pi`, for reference masses :math:`a, b`,

.. math:: \langle \pi, c \rangle + \varepsilon R(\pi) + \rho_1 D(\pi 1 \mid a)
   + \rho_2 D(\pi^\top 1 \mid b)

with `D` the Kullback–Leibler divergence or the total variation (the L1 distance), and an infinite
:math:`\rho` for a marginal that is exact (Chizat, Peyré, Schmitzer and Vialard, 2018, "Scaling
algorithms for unbalanced optimal transport problems", section 3). The plan is
:math:`\pi_{ij} = \exp((f_i + g_j - \tilde c_{ij}) / \varepsilon)`, where :math:`\tilde c` holds
the reference measure of `R`. Given :math:`g`, the best :math:`f` is closed-form: the potential
that makes the row exact, shrunk by :math:`\rho / (\rho + \varepsilon)` (KL) or clipped to
:math:`[-\rho, \rho]` (TV).

Sweeps are followed by the best translation :math:`(f + \lambda, g - \lambda)`, which is
closed-form for KL (Séjourné, Vialard and Peyré, 2022, "Faster unbalanced optimal transport:
translation invariant Sinkhorn and 1-D Frank–Wolfe", section 2): without it, strong penalties
converge slower the stronger they are. What sweeps leave is finished by damped Newton steps on
the concave semi-dual in :math:`g`, whose Hessian is
:math:`-(\operatorname{diag}(\pi^\top 1 + \varepsilon h) - \pi^\top \operatorname{diag}(f' / \pi 1)
\pi) / \varepsilon`, with :math:`h` the curvature of the penalty and :math:`f'` the derivative of
the shrinking or clipping.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from cellflow._typing import Tensor
from cellflow.transport.entropic import scaling
from cellflow.transport.entropic.marginals import Side
from cellflow.transport.entropic.sinkhorn import DIRECT, RATIO, RIDGES, ROUGH, ROUNDS, STEPS, SWEEPS

#: Change of a potential, in units of ε, beyond which scalings are absorbed at once.
LARGEST = 300.0


class Potentials(NamedTuple):
    """What solves the problem, and how it went.

    Parameters
    ----------
    f, g
        Potentials of rows ``(n,)`` and columns ``(m,)``, in units of the cost.
    error
        L1 error of the marginals against those that the potentials ask for, relative to the mass
        of the plan.
    iterations
        Sweeps and Newton steps spent.
    """

    f: Tensor
    g: Tensor
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
) -> Potentials:
    """Solve entropic transport with soft marginals.

    Parameters
    ----------
    cost
        Cost matrix, shape ``(n, m)``, float64.
    sides
        The marginals of rows and of columns.
    epsilon
        Regularisation, in units of the cost.
    relative
        Whether the entropy is relative to the product of the reference masses (the KL
        divergence from it), not plain.
    tolerance
        Error of the marginals that is aimed at.
    max_iter
        Bound on the number of sweeps and Newton steps together.

    Returns
    -------
    The potentials, finite whatever happens; `error` above `tolerance` says that they did not
    converge.
    """
    if cost.shape[1] > cost.shape[0]:  # Newton steps are cubic in the number of columns
        s = solve(
            cost.T.contiguous(),
            sides[::-1],
            epsilon=epsilon,
            relative=relative,
            tolerance=tolerance,
            max_iter=max_iter,
        )
        return s._replace(f=s.g, g=s.f)
    spent = 0
    if cost.device.type == "cpu":
        limits = {"tolerance": tolerance, "max_iter": max_iter}
        fast = scaling.solve(cost, sides, epsilon=epsilon, relative=relative, **limits)
        if fast.error <= tolerance or fast.iterations >= max_iter:
            return Potentials(fast.f, fast.g, fast.error, fast.iterations)
        spent = fast.iterations
    bounds = {"tolerance": tolerance, "budget": (spent, max_iter)}
    return _solve(cost, sides, epsilon=epsilon, relative=relative, **bounds)


def _solve(
    cost: Tensor,
    sides: tuple[Side, Side],
    *,
    epsilon: float,
    relative: bool,
    tolerance: float,
    budget: tuple[int, int],
) -> Potentials:
    """Solve in tensors, on any device; `budget` is what was spent and what may be."""
    used, max_iter = budget
    scale = float(cost.mean())
    step = epsilon if epsilon >= DIRECT * scale else max(epsilon, scale / RATIO)
    g = torch.zeros_like(sides[1].mass)
    while True:
        p = Problem(reference_cost(cost, sides, step if relative else 0.0), *sides, step)
        aim = tolerance if step <= epsilon else max(ROUGH, tolerance)
        s = _stage(p, g, aim=aim, budget=max_iter - used)
        used += s.iterations
        if bool(torch.isfinite(s.g).all()):
            g = s.g
        if step <= epsilon:
            finite = bool(torch.isfinite(s.f).all()) and g is s.g
            f = s.f if finite else p.rows(g)
            return Potentials(f, g, s.error if finite else float("inf"), used)
        if used >= max_iter:
            p = Problem(reference_cost(cost, sides, epsilon if relative else 0.0), *sides, epsilon)
            return Potentials(p.rows(g), g, float("inf"), used)
        step = max(step / RATIO, epsilon)


def reference_cost(cost: Tensor, sides: tuple[Side, Side], epsilon: float) -> Tensor:
    """Return the cost that holds the product of the masses as reference measure, at weight ε."""
    logs = [side.mass.log() for side in sides]
    return cost - epsilon * (logs[0][:, None] + logs[1][None, :])


class _State(NamedTuple):
    f: Tensor
    g: Tensor
    plan: Tensor
    error: float
    iterations: int


class Problem(NamedTuple):
    """One regularisation of the problem."""

    cost: Tensor
    left: Side
    right: Side
    epsilon: float

    def rows(self, g: Tensor) -> Tensor:
        """Return the best potential of the rows given that of the columns."""
        total = torch.logsumexp((g[None, :] - self.cost) / self.epsilon, 1)
        return self.left.potential(self.epsilon * (self.left.mass.log() - total), self.epsilon)

    def cols(self, f: Tensor) -> Tensor:
        """Return the best potential of the columns given that of the rows."""
        total = torch.logsumexp((f[:, None] - self.cost) / self.epsilon, 0)
        return self.right.potential(self.epsilon * (self.right.mass.log() - total), self.epsilon)

    def shift(self, f: Tensor, g: Tensor) -> Tensor | float:
        """Return the best translation λ of ``(f + λ, g − λ)``: zero where it has no closed form."""
        rho = self.left.rho, self.right.rho
        if self.left.clipped or min(rho) == float("inf"):
            return 0.0
        logs = [
            torch.logsumexp(side.mass.log() - potential / side.rho, 0)
            for side, potential in ((self.left, f), (self.right, g))
        ]
        return (logs[0] - logs[1]) / (1.0 / rho[0] + 1.0 / rho[1])

    def state(self, g: Tensor, iterations: int) -> _State:
        """Return the plan of `g`, with the best potential of the rows."""
        f = self.rows(g)
        plan = torch.exp((f[:, None] + g[None, :] - self.cost) / self.epsilon)
        attained = plan.sum(0)
        lack = self.right.lack(g, attained).abs().sum()
        total = attained.sum().clamp(min=torch.finfo(plan.dtype).tiny)
        return _State(f, g, plan, float(lack / total), iterations)


def _stage(p: Problem, g: Tensor, *, aim: float, budget: int) -> _State:
    """Solve at one ε: sweeps first, Newton steps if they do not suffice."""
    s = p.state(p.cols(p.rows(g)), 1)
    for _ in range(ROUNDS):
        if s.error <= aim or s.iterations >= budget:
            return s
        s = _sweeps(p, s, count=min(SWEEPS, budget - s.iterations))
    while s.error > aim and s.iterations < budget:
        moved = _newton(p, s)
        if moved is None:  # a kink of the total variation, where curvature says little
            moved = _sweeps(p, s, count=min(SWEEPS, budget - s.iterations))
        s = moved
    return s


def _sweeps(p: Problem, s: _State, *, count: int) -> _State:
    """Run sweeps as scalings of the plan, which are matrix products, and absorb them."""
    f, g, epsilon, done = s.f, s.g, p.epsilon, 0
    while done < count:
        reached = torch.exp((f - s.f) / epsilon) @ s.plan
        cols = p.right.potential(s.g + epsilon * (p.right.mass / reached).log(), epsilon)
        left = s.plan @ torch.exp((cols - s.g) / epsilon)
        rows = p.left.potential(s.f + epsilon * (p.left.mass / left).log(), epsilon)
        move = torch.maximum((rows - s.f).abs().max(), (cols - s.g).abs().max())
        if not bool((reached.min() > 0) & (left.min() > 0) & (move < LARGEST * epsilon)):
            break
        shift = p.shift(rows, cols)
        f, g, done = rows + shift, cols - shift, done + 1
    if not done:  # a scaling left the range of numbers: one sweep in the log domain
        g, done = p.cols(s.f), 1
        g = g - p.shift(p.rows(g), g)
    return p.state(g, s.iterations + done)


def _newton(p: Problem, s: _State) -> _State | None:
    """Take one damped, projected Newton step on the semi-dual; None if there is none to take."""
    total = s.plan.sum(0)
    lack = p.right.lack(s.g, total)
    diagonal = total + p.epsilon * p.right.curvature(s.g)
    # Scaled to a unit diagonal: masses of columns may differ by orders of magnitude.
    root = diagonal.clamp(min=torch.finfo(total.dtype).tiny).rsqrt()
    rows = s.plan.sum(1).clamp(min=torch.finfo(total.dtype).tiny)
    half = s.plan * (root[None, :] * (p.left.slope(s.f, p.epsilon) / rows).sqrt()[:, None])
    hessian = half.T @ half
    hessian.neg_().diagonal().add_(1.0)
    if p.left.exact and p.right.exact:  # constants change nothing: they are fixed
        hessian.addmm_((p.right.mass * root)[:, None], (p.right.mass * root)[None, :])
    if p.right.clipped and not p.right.exact:
        held = (s.g.abs() >= p.right.rho) & (lack == 0)
        hessian[held] = 0.0
        hessian[:, held] = 0.0
        hessian.diagonal()[held] = 1.0
    for ridge in (*RIDGES, 1.0, 10.0):
        hessian.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed):
            continue
        move = p.epsilon * root * torch.cholesky_solve((lack * root)[:, None], factor)[:, 0]
        for size in STEPS:
            moved = _trial(p, s, size * move)
            if moved is not None:
                return moved
    return None


def _trial(p: Problem, s: _State, move: Tensor) -> _State | None:
    """Return the state after `move` of the columns' potential if the dual rises as it should."""
    g = s.g + move
    if p.right.clipped and not p.right.exact:
        g = g.clamp(-p.right.rho, p.right.rho)
    new = p.state(g, s.iterations + 1)
    parts = (
        p.left.gain(s.f, new.f),
        p.right.gain(s.g, g),
        p.epsilon * (s.plan.sum() - new.plan.sum()),
    )
    slope = torch.dot(p.right.lack(s.g, s.plan.sum(0)), g - s.g)
    slack = 1e-14 * (sum(part.abs() for part in parts) + p.epsilon * s.plan.sum())
    rises = math.isfinite(new.error) and bool(sum(parts) >= 1e-4 * slope - slack)
    return new if rises else None
