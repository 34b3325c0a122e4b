r"""Entropic optimal transport, balanced or unbalanced, in the log domain.

Minimised over plans :math:`\pi`, for reference masses :math:`a, b`,

.. math:: \langle \pi, c \rangle + \varepsilon R(\pi) + \rho_1 \mathrm{KL}(\pi 1 \mid a)
   + \rho_2 \mathrm{KL}(\pi^\top 1 \mid b)

with an infinite :math:`\rho` for an exact marginal (Chizat, Peyré, Schmitzer and Vialard, 2018,
"Scaling algorithms for unbalanced optimal transport problems", section 3). The plan is
:math:`\pi_{ij} = \exp((f_i + g_j - \tilde c_{ij}) / \varepsilon)`, where :math:`\tilde c` includes
the reference measure of `R`. The best :math:`f` for a :math:`g` is the potential that makes the row
exact, shrunk by :math:`\rho / (\rho + \varepsilon)`. What remains is the concave semi-dual in
:math:`g`: its gradient is the residual of the columns, its Hessian is
:math:`-(\operatorname{diag}(\pi^\top 1 + \varepsilon h) - \pi^\top \operatorname{diag}(f' / \pi 1)
\pi) / \varepsilon`, with :math:`h` the curvature of the penalty and :math:`f'` the derivative of
the shrinking (Brauer, Clason, Lorenz and Wirth, 2017, "A Sinkhorn–Newton method for entropic
optimal transport", section 2, in its reduced form). Sinkhorn sweeps are cheap but need of the order
of :math:`c / \varepsilon` of them; a few damped Newton steps do the same.

Unbalanced sweeps are followed by the best translation :math:`(f + \lambda, g - \lambda)`, which is
closed-form (Séjourné, Vialard and Peyré, 2022, "Faster unbalanced optimal transport: translation
invariant Sinkhorn and 1-D Frank–Wolfe", section 2): without it, strong penalties converge slower
the stronger they are.

On the CPU the kernels are compiled (:mod:`cellflow.transport.entropic._compiled`): conjugate
gradients on the plan, preconditioned by one Cholesky factor of the Hessian where they stall. The
regularisation falls to the one asked for by factors of five, and the potentials are extrapolated
along the way. Where that leads nowhere, and on other devices, tensors take over
(:mod:`cellflow.transport.entropic.batched`). It takes ``O(n m)`` memory, some tens of passes over
the plan, and factorisations of ``O(n m² + m³)``.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from cellflow.transport.entropic.batched import DIRECT, FIRST, RATIO, ROUGH, solve_batch
from cellflow.transport.entropic.marginals import Marginal, Problem, Solution

#: "auto" is compiled on the CPU and in tensors elsewhere; "batched" is in tensors everywhere.
SOLVERS = ("auto", "batched", "pot")


def solve(problem: Problem, *, tolerance: float, max_iter: int, solver: str = "auto") -> Solution:
    """Solve a problem of entropic transport.

    An `error` above the `tolerance` (L1, relative to the mass) says that it did not converge in
    `max_iter` sweeps and Newton steps. ``"pot"`` is POT's solver, for exact marginals.
    """
    if solver == "pot":
        return _pot(problem, tolerance, max_iter)
    cost = problem.cost
    if cost.shape[1] > cost.shape[0]:  # Newton steps are cubic in the number of columns
        s = solve(problem.transposed(), tolerance=tolerance, max_iter=max_iter, solver=solver)
        return s.transposed()
    spent = 0
    if solver == "auto" and cost.device.type == "cpu":
        try:
            s = _compiled(problem, tolerance, max_iter)
            if s.error <= tolerance or s.iterations >= max_iter:
                return s
            spent = s.iterations
        except ZeroDivisionError:  # a column out of reach of all rows: its curvature underflows
            pass
    (s,) = solve_batch([problem], tolerance=tolerance, max_iter=max_iter - spent)
    return s._replace(iterations=spent + s.iterations)


def _compiled(problem: Problem, tolerance: float, max_iter: int) -> Solution:
    """Solve by compiled kernels; plan entries below 2e-16 of their row's largest are zero."""
    from cellflow.transport.entropic import _compiled

    cost, marginals, epsilon = problem
    c = np.ascontiguousarray(cost.numpy())
    scale = float(c.mean())
    step = epsilon if epsilon >= DIRECT * scale else max(epsilon, scale * FIRST)
    g = np.zeros(c.shape[1])
    before: tuple[np.ndarray, float] | None = None
    used, hessian = 0, np.empty((0, 0))
    while True:
        left, right = (_side(side, step, marginals.relative) for side in marginals[:2])
        scaled = g / step
        aim = tolerance if step <= epsilon else max(ROUGH, tolerance)
        error, spent, f, plan, hessian = _compiled.stage(
            c, 1.0 / step, left, right, scaled, aim, max_iter - used, hessian
        )
        used += spent
        now = scaled * step
        if step <= epsilon or used >= max_iter or not error <= aim:
            reached = error if step <= epsilon else math.inf
            potentials = torch.from_numpy(f * step), torch.from_numpy(now)
            return Solution(*potentials, reached, used, torch.from_numpy(plan))
        new = max(step / RATIO, epsilon)
        g = now
        if before is not None:  # along the path that the potentials take as ε falls
            g = now + (now - before[0]) * ((new - step) / (step - before[1]))
        before, step = (now, step), new


def _side(
    side: Marginal, epsilon: float, relative: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return a marginal in units of the regularisation, as the kernels take it."""
    mass = side.mass.numpy()
    log = np.log(mass)
    return mass, log, log if relative else np.zeros_like(log), float(side.rho) / epsilon


def _pot(problem: Problem, tolerance: float, max_iter: int) -> Solution:
    """Solve by POT's Sinkhorn in the log domain, whose rows are right by construction."""
    cost, marginals, epsilon = problem
    if not marginals.exact:
        raise ValueError("POT's solver is for exact marginals.")
    import ot

    a, b, c = (z.cpu().numpy() for z in (marginals.rows.mass, marginals.cols.mass, cost))
    # Its stopping rule is the L2 error, looked at after every tenth sweep.
    stop = {"numItermax": max_iter, "stopThr": tolerance / math.sqrt(len(b)), "warn": False}
    with np.errstate(over="ignore"):  # of the scalings in its log, which nothing here reads
        plan, log = ot.bregman.sinkhorn_log(a, b, c, epsilon, log=True, **stop)
    f, g = epsilon * log["log_u"], epsilon * log["log_v"]
    f, g, plan = (torch.from_numpy(z).to(cost.device) for z in (f, g, plan))
    error = float((plan.sum(0) - marginals.cols.mass).abs().sum())
    return Solution(f, g, error, log["niter"] + 1, plan)
