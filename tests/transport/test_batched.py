"""Solvers of entropic transport against each other: compiled, in batches, and POT's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Entropic, Unbalanced
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic import solve as module
from cellflow.transport.entropic.batched import solve_batch
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve

INF = math.inf
#: Strengths of the penalties in units of the mean cost, and whether the entropy is relative.
KINDS = {
    "exact": (INF, INF, False),
    "wot": (1.0, INF, True),
    "target": (INF, 0.5, True),
    "both": (10.0, 0.3, False),
    "strong": (1e4, 1e4, True),
}
#: Regularisations of a batch in units of the mean cost.
RELATIVE = [0.002, 0.05, 5.0, 0.3]


def problem(n=60, m=41, *, seed=0, shift=0.5):
    """Costs between clouds, and masses that differ by orders of magnitude."""
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    x, y = torch.randn(n, 4, **like), torch.randn(m, 4, **like) * 1.3 + shift
    masses = [torch.softmax(2.0 * torch.randn(k, **like), 0) for k in (n, m)]
    return 0.5 * torch.cdist(x, y) ** 2, masses


def marginals(masses, kind="exact", unit=1.0):
    *rho, relative = KINDS[kind]
    return Marginals(*(Marginal(a, r * unit) for a, r in zip(masses, rho, strict=True)), relative)


def plan_of(s, cost, both, epsilon):
    """The plan that the potentials of a solution make."""
    return torch.exp((s.f[:, None] + s.g[None, :] - both.reference(cost, epsilon)) / epsilon)


# --- compiled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 3.0])
def test_compiled_and_batched_solvers_agree(kind, epsilon) -> None:
    cost, masses = problem()
    unit = float(cost.mean())
    both, epsilon = marginals(masses, kind, unit), epsilon * unit
    limits, task = {"tolerance": 1e-10, "max_iter": 2000}, Problem(cost, both, epsilon)
    fast, slow = (solve(task, solver=name, **limits) for name in ("auto", "batched"))
    assert fast.error <= 1e-10
    assert slow.error <= 1e-10
    plans = [plan_of(s, cost, both, epsilon) for s in (fast, slow)]
    assert_close(plans[0], plans[1], atol=1e-8, rtol=1e-6)
    assert_close(fast.plan, plans[0], atol=1e-13, rtol=1e-11)
    assert_close(slow.plan, plans[1], atol=1e-13, rtol=1e-11)


@pytest.mark.parametrize("shape", [(30, 25), (25, 30)])
@pytest.mark.parametrize("epsilon", [0.02, 0.2, 5.0])
@pytest.mark.parametrize("solver", ["auto", "batched"])
def test_plans_agree_with_pot(shape, epsilon, solver) -> None:
    cost, masses = problem(*shape)
    both = marginals(masses)
    task = Problem(cost, both, epsilon)
    ours = solve(task, tolerance=1e-12, max_iter=500, solver=solver)
    pot = solve(task, tolerance=1e-12, max_iter=200_000, solver="pot")
    assert max(ours.error, pot.error) <= 1e-12
    assert_close(ours.plan, pot.plan, atol=1e-10, rtol=0)
    assert_close(plan_of(pot, cost, both, epsilon), pot.plan)
    # Potentials are unique up to a constant.
    assert_close(ours.f - ours.f.mean(), pot.f - pot.f.mean(), atol=1e-6, rtol=0)


def test_tensors_take_over_where_compiled_steps_fail(monkeypatch) -> None:
    """No data are known on which they do: a solver that stops after seven steps stands in."""
    cost, masses = problem(20, 20)
    task, limits = Problem(cost, marginals(masses), 0.1), {"tolerance": 1e-9, "max_iter": 500}
    expected = solve(task, **limits)
    lost = expected._replace(error=1.0, iterations=7)
    monkeypatch.setattr(module, "_compiled", lambda *_: lost)
    found = solve(task, **limits)
    assert found.error <= 1e-9
    assert found.iterations > 7
    assert_close(found.plan, expected.plan, atol=1e-8, rtol=0)


def test_pot_refuses_relaxed_marginals() -> None:
    cost, masses = problem()
    task = Problem(cost, marginals(masses, "wot"), 0.1)
    with pytest.raises(ValueError, match="exact marginals"):
        solve(task, solver="pot", tolerance=1e-6, max_iter=10)


@pytest.mark.parametrize("solver", ["auto", "batched", "pot"])
def test_solver_keeps_its_budget_and_says_so(solver) -> None:
    cost, masses = problem()
    task = Problem(cost, marginals(masses), 1e-3)
    s = solve(task, solver=solver, tolerance=1e-9, max_iter=15)
    assert s.iterations <= 15
    assert s.error > 1e-9
    assert solver == "pot" or s.error == INF  # the regularisation asked for was not reached
    assert bool(s.f.isfinite().all() & s.g.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (2, 2), (9, 3)])
@pytest.mark.parametrize("solver", ["auto", "batched", "pot"])
def test_smallest_problems_attain_their_marginals(shape, solver) -> None:
    cost, (a, b) = problem(*shape)
    task = Problem(cost, marginals((a, b)), 0.1)
    plan = solve(task, solver=solver, tolerance=1e-11, max_iter=5000).plan
    assert_close(plan.sum(0), b, atol=1e-10, rtol=0)
    assert_close(plan.sum(1), a, atol=1e-10, rtol=0)


# --- many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(30, 21), (17, 24)])
def test_batch_solves_each_problem_as_one_alone(kind, shape) -> None:
    """Problems of one size, far from equally hard: each goes its own way."""
    problems = [problem(*shape, seed=k, shift=0.5 * k) for k in range(4)]
    units = [float(cost.mean()) for cost, _ in problems]
    tasks = [
        Problem(cost, marginals(masses, kind, unit), relative * unit)
        for (cost, masses), unit, relative in zip(problems, units, RELATIVE, strict=True)
    ]
    limits = {"tolerance": 1e-10, "max_iter": 1500}
    for s, task in zip(solve_batch(tasks, **limits), tasks, strict=True):
        assert s.error <= 1e-10
        assert_close(s.plan, plan_of(solve(task, **limits), *task), atol=1e-8, rtol=1e-6)
        assert_close(plan_of(s, *task), s.plan, atol=1e-10, rtol=1e-8)


def test_batch_freezes_converged_problems() -> None:
    """An easy problem is where it was after one state, however long a hard one takes."""
    easy, hard = problem(20, 20, seed=1), problem(20, 20, seed=2)

    tasks = [
        Problem(cost, marginals(masses), epsilon)
        for (cost, masses), epsilon in ((easy, 50.0), (hard, 0.01))
    ]
    alone, beside = (solve_batch(tasks[:k], tolerance=1e-6, max_iter=600) for k in (1, 2))
    assert beside[0].iterations > 3 * alone[0].iterations
    assert all(s.error <= 1e-6 for s in beside)
    assert_close(beside[0].plan, alone[0].plan, atol=1e-6, rtol=0)


def test_batch_converges_where_bare_newton_steps_fail() -> None:
    """Next to no regularisation, and masses that differ a thousandfold: ridges must grow."""
    g = torch.Generator().manual_seed(0)
    like = {"generator": g, "dtype": torch.float64}
    tasks = []
    for power in (3, 4, 5):
        x, y = torch.randn(2, 40, 8, **like)
        cost = 0.5 * torch.cdist(x, y) ** 2
        masses = torch.softmax(3.0 * torch.randn(2, 40, **like), 1)
        tasks.append(Problem(cost, marginals(masses), 10.0**-power * float(cost.mean())))
    for s, task in zip(solve_batch(tasks, tolerance=1e-8, max_iter=1200), tasks, strict=True):
        assert s.error <= 1e-8
        assert_close(s.plan.sum(1), task.marginals.rows.mass, atol=1e-10, rtol=0)


def test_batch_keeps_its_budget_and_says_so() -> None:
    cost, masses = problem(20, 20)
    tasks = [Problem(cost, marginals(masses), epsilon) for epsilon in (1e-3, 1e3)]
    hard, easy = solve_batch(tasks, tolerance=1e-8, max_iter=25)
    assert hard.error == INF
    assert easy.error <= 1e-8


COUPLINGS = {
    "entropic": Entropic(epsilon=0.1),
    "unbalanced": Unbalanced(tolerance=1e-8),
    "exact": Unbalanced(epsilon=0.2, relaxation=None, tolerance=1e-8),
}


def snapshots(count=4, sizes=((20, 25), (14, 14))):
    """Pairs of two sizes in turn, the sources with masses of their own."""
    g = torch.Generator().manual_seed(5)
    out = []
    for k in range(count):
        n, m = sizes[k % 2]
        x, y = (torch.randn(size, 3, generator=g, dtype=torch.float64) for size in (n, m))
        out.append((Snapshot(x, 0.0, torch.rand(n, generator=g) + 0.1), Snapshot(y + 0.3 * k, 1.0)))
    return out


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("solver", ["auto", "batched"])  # batched: what runs on an accelerator
def test_many_couples_each_pair_as_a_call_does(name, solver) -> None:
    coupling, pairs = COUPLINGS[name], snapshots()
    expected = [coupling(*pair) for pair in pairs]
    found = replace(coupling, solver=solver).many(*zip(*pairs, strict=True))
    for plan, alone in zip(found, expected, strict=True):
        assert plan.fallback is None
        assert plan.marginal_error <= coupling.tolerance
        assert_close(plan.dense(), alone.dense(), atol=1e-6, rtol=0)
        assert plan.cost == pytest.approx(alone.cost, rel=1e-5)
        if alone.source_growth is not None:
            assert_close(plan.source_growth, alone.source_growth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"epsilon": 1e-3, "max_iter": 3}, {"epsilon": 1e-9}])
def test_many_replaces_plans_as_a_call_does(settings) -> None:
    """Too few iterations, and next to no regularisation: the exact plan."""
    coupling, pairs = Entropic(**settings, solver="batched"), snapshots()
    for plan, pair in zip(coupling.many(*zip(*pairs, strict=True)), pairs, strict=True):
        alone = coupling(*pair)
        assert_close(plan.dense(), alone.dense())
        assert plan.fallback == alone.fallback


@pytest.mark.parametrize("solver", ["auto", "batched"])
def test_many_refuses_snapshots_that_do_not_match(solver) -> None:
    source, target = snapshots(1)[0]
    for name in COUPLINGS:
        coupling = replace(COUPLINGS[name], solver=solver)
        assert coupling.many([], []) == []
        with pytest.raises(ValueError, match=r"targets.*1 snapshots.*2, as many as sources"):
            coupling.many([source, source], [target])
        with pytest.raises(TypeError, match="a Snapshot"):
            coupling.many([source.x], [target])
