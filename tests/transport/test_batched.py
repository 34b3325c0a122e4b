"""Fast ways to entropic plans against slow ones: compiled, and many at once."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Entropic, Unbalanced, many
from cellflow.timecourse import Snapshot
from cellflow.transport.entropic import batched, scaling, sinkhorn, unbalanced
from cellflow.transport.entropic.marginals import Side, Sides

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
    slow = unbalanced._solve(cost, both, tolerance=1e-10, budget=(0, 2000), **limits)
    assert fast.error <= 1e-10
    assert slow.error <= 1e-10
    reference = unbalanced.reference_cost(cost, both, epsilon * unit if relative else 0.0)
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


# --- many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("shape", [(30, 21), (17, 24)])
def test_a_batch_is_its_problems_one_by_one(name, shape) -> None:
    """Problems of one size, far from equally hard: each goes its own way."""
    epsilons = [0.002, 0.05, 5.0, 0.3]
    problems = [problem(*shape, seed=k, shift=0.5 * k) for k in range(4)]
    units = [float(cost.mean()) for cost, _ in problems]
    both = [sides(masses, name, unit)[0] for (_, masses), unit in zip(problems, units, strict=True)]
    relative = SIDES[name][3]
    epsilon = torch.tensor([e * u for e, u in zip(epsilons, units, strict=True)])
    s = batched.solve(
        torch.stack([cost for cost, _ in problems]),
        (Sides.of([left for left, _ in both]), Sides.of([right for _, right in both])),
        epsilon=epsilon.double(),
        relative=relative,
        tolerance=1e-10,
        max_iter=1500,
    )
    assert float(s.error.max()) <= 1e-10
    for k, ((cost, _), pair) in enumerate(zip(problems, both, strict=True)):
        scale = float(epsilon.double()[k])
        one = unbalanced._solve(
            cost, pair, epsilon=scale, relative=relative, tolerance=1e-10, budget=(0, 2000)
        )
        reference = unbalanced.reference_cost(cost, pair, scale if relative else 0.0)
        expected = torch.exp((one.f[:, None] + one.g[None, :] - reference) / scale)
        assert_close(s.plan[k], expected, atol=1e-8, rtol=1e-6)
        again = torch.exp((s.f[k][:, None] + s.g[k][None, :] - reference) / scale)
        assert_close(again, s.plan[k], atol=1e-10, rtol=1e-8)


def test_what_has_converged_is_frozen() -> None:
    """An easy problem is where it was after one state, however long a hard one takes."""
    easy, hard = problem(20, 20, seed=1), problem(20, 20, seed=2)

    def together(members):
        both = [Sides.of([Side(m[k], INF, False) for _, m in members]) for k in (0, 1)]
        return batched.solve(
            torch.stack([cost for cost, _ in members]),
            tuple(both),
            epsilon=torch.tensor([50.0, 0.01][: len(members)], dtype=torch.float64),
            relative=False,
            tolerance=1e-6,
            max_iter=600,
        )

    alone, beside = together([easy]), together([easy, hard])
    assert beside.iterations > 3 * alone.iterations
    assert bool((beside.error <= 1e-6).all())
    assert_close(beside.plan[0], alone.plan[0], atol=1e-6, rtol=0)


def test_a_batch_gets_by_where_bare_newton_steps_lead_nowhere() -> None:
    """Next to no regularisation, and masses that differ a thousandfold: ridges must grow."""
    g = torch.Generator().manual_seed(0)
    like = {"generator": g, "dtype": torch.float64}
    costs, masses, epsilons = [], [], []
    for power in (3, 4, 5):
        x, y = torch.randn(2, 40, 8, **like)
        costs.append(0.5 * torch.cdist(x, y) ** 2)
        masses.append(torch.softmax(3.0 * torch.randn(2, 40, **like), 1))
        epsilons.append(10.0**-power * float(costs[-1].mean()))
    sides = [Sides.of([Side(mass[k], INF, False) for mass in masses]) for k in (0, 1)]
    s = batched.solve(
        torch.stack(costs),
        tuple(sides),
        epsilon=torch.tensor(epsilons, dtype=torch.float64),
        relative=False,
        tolerance=1e-8,
        max_iter=1200,
    )
    assert float(s.error.max()) <= 1e-8
    assert_close(s.plan.sum(2), sides[0].mass, atol=1e-10, rtol=0)


def test_a_batch_keeps_its_budget_and_says_so() -> None:
    cost, masses = problem(20, 20)
    both = [Sides.of([Side(mass, INF, False)] * 2) for mass in masses]
    s = batched.solve(
        torch.stack([cost, cost]),
        tuple(both),
        epsilon=torch.tensor([1e-3, 1e3], dtype=torch.float64),
        relative=False,
        tolerance=1e-8,
        max_iter=25,
    )
    assert float(s.error[0]) == INF
    assert float(s.error[1]) <= 1e-8


COUPLINGS = {
    "entropic": Entropic(epsilon=0.1),
    "unbalanced": Unbalanced(tolerance=1e-8),
    "tv": Unbalanced(epsilon=0.2, penalty="tv", relaxation=0.3, tolerance=1e-8),
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
@pytest.mark.parametrize("accelerator", [False, True])
def test_many_couples_each_pair_as_a_call_does(name, accelerator, monkeypatch) -> None:
    coupling, pairs = COUPLINGS[name], snapshots()
    expected = [coupling(*pair) for pair in pairs]
    if accelerator:  # what runs on one, here on the CPU
        monkeypatch.setattr(many, "on_device", lambda snapshot: True)
        monkeypatch.setattr(scaling, "solve", None)  # and nothing else does
    found = coupling.many(*zip(*pairs, strict=True))
    for plan, alone in zip(found, expected, strict=True):
        assert plan.fallback is None
        assert plan.marginal_error <= coupling.tolerance
        assert_close(plan.dense(), alone.dense(), atol=1e-6, rtol=0)
        assert plan.cost == pytest.approx(alone.cost, rel=1e-5)
        if alone.source_growth is not None:
            assert_close(plan.source_growth, alone.source_growth, atol=1e-5, rtol=0)


def test_many_hands_on_what_a_batch_cannot_solve(monkeypatch) -> None:
    """Too few iterations: the exact plan, as of a call; next to no regularisation: likewise."""
    monkeypatch.setattr(many, "on_device", lambda snapshot: True)
    pairs = snapshots()
    for coupling in (Entropic(epsilon=1e-3, max_iter=3), Entropic(epsilon=1e-9)):
        for plan, pair in zip(coupling.many(*zip(*pairs, strict=True)), pairs, strict=True):
            alone = coupling(*pair)
            assert_close(plan.dense(), alone.dense())
            assert plan.fallback == alone.fallback


def test_many_refuses_what_does_not_match() -> None:
    source, target = snapshots(1)[0]
    for coupling in COUPLINGS.values():
        assert coupling.many([], []) == []
        with pytest.raises(ValueError, match=r"targets.*1 snapshots.*2, as many as sources"):
            coupling.many([source, source], [target])
        with pytest.raises(TypeError, match="a Snapshot"):
            coupling.many([source.x], [target])
