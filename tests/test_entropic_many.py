"""Fast ways to entropic plans against slow ones: compiled, and many at once."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import scaling, sinkhorn, soft
from cellflow.couplings.sides import Side

INF = math.inf
#: Strengths of the penalties in units of the mean cost, clipped or not, reference measure.
SIDES = {
    "exact": (INF, INF, False, False),
    "wot": (1.0, INF, False, True),
    "target": (INF, 0.5, False, True),
    "both": (10.0, 0.3, False, False),
    "strong": (1e4, 1e4, False, True),
    "tv": (0.3, INF, True, True),
}


def problem(n=60, m=41, *, seed=0, shift=0.5):
    """Costs between clouds, and masses that differ by orders of magnitude."""
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    x, y = torch.randn(n, 4, **like), torch.randn(m, 4, **like) * 1.3 + shift
    masses = [torch.softmax(2.0 * torch.randn(k, **like), 0) for k in (n, m)]
    return 0.5 * torch.cdist(x, y) ** 2, masses


def sides(masses, name, unit):
    *rho, clipped, relative = SIDES[name]
    pair = [Side(mass, r * unit, clipped) for mass, r in zip(masses, rho, strict=True)]
    return tuple(pair), relative


# --- compiled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 3.0])
def test_compiled_and_tensor_solvers_agree(name, epsilon) -> None:
    cost, masses = problem()
    unit = float(cost.mean())
    both, relative = sides(masses, name, unit)
    limits = {"epsilon": epsilon * unit, "relative": relative}
    fast = scaling.solve(cost, both, tolerance=1e-10, max_iter=2000, **limits)
    slow = soft._solve(cost, both, tolerance=1e-10, budget=(0, 2000), **limits)
    assert fast.error <= 1e-10
    assert slow.error <= 1e-10
    reference = soft.reference_cost(cost, both, epsilon * unit if relative else 0.0)
    plans = [
        torch.exp((s.f[:, None] + s.g[None, :] - reference) / (epsilon * unit))
        for s in (fast, slow)
    ]
    assert_close(plans[0], plans[1], atol=1e-8, rtol=1e-6)
    assert_close(fast.plan, plans[0], atol=1e-13, rtol=1e-11)


def test_compiled_plans_are_those_of_pot() -> None:
    cost, (a, b) = problem(30, 25)
    fast = scaling.solve(
        cost,
        (Side(a, INF, False), Side(b, INF, False)),
        epsilon=0.2,
        relative=False,
        tolerance=1e-12,
        max_iter=500,
    )
    expected = ot.bregman.sinkhorn_log(a, b, cost, 0.2, numItermax=100_000, stopThr=1e-13)
    assert_close(fast.plan, expected, atol=1e-10, rtol=0)


def test_where_compiled_steps_lead_nowhere_the_slow_solver_goes_on(monkeypatch) -> None:
    """Newton steps that are never accepted: what remains of the budget is spent in tensors."""
    cost, (a, b) = problem(20, 20)
    real = scaling.solve

    def lost(*args, **options):
        return real(*args, **options)._replace(error=1.0, iterations=7)

    limits = {"epsilon": 0.1, "tolerance": 1e-9, "max_iter": 500}
    expected = sinkhorn.solve(cost, (a, b), **limits)
    monkeypatch.setattr(scaling, "solve", lost)
    found = sinkhorn.solve(cost, (a, b), **limits)
    assert found.error <= 1e-9
    assert found.iterations > 7
    assert_close(found.plan, expected.plan, atol=1e-8, rtol=0)


def test_a_budget_is_kept() -> None:
    cost, masses = problem()
    both, _ = sides(masses, "exact", 1.0)
    limits = {"epsilon": 1e-3, "relative": False, "tolerance": 1e-9}
    s = scaling.solve(cost, both, max_iter=15, **limits)
    assert s.iterations <= 15
    assert s.error == INF  # the regularisation asked for was not reached


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (2, 2), (9, 3)])
def test_smallest_problems(shape) -> None:
    cost, (a, b) = problem(*shape)
    both, _ = sides((a, b), "exact", 1.0)
    limits = {"epsilon": 0.01, "relative": False, "tolerance": 1e-11, "max_iter": 500}
    plan = scaling.solve(cost, both, **limits).plan
    assert_close(plan.sum(0), b, atol=1e-10, rtol=0)
    assert_close(plan.sum(1), a, atol=1e-10, rtol=0)
