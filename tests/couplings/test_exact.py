"""The exact and the independent coupling."""

from __future__ import annotations

import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Exact, Independent
from cellflow.timecourse import Snapshot
from clouds import half_cost, snapshots


def test_independent_is_the_product():
    source, target = snapshots(8, 5, masses=True)
    expected = torch.outer(source.weights, target.weights)
    assert_close(Independent()(source, target).dense(), expected)


@pytest.mark.parametrize(("n", "m", "weighted"), [(40, 40, False), (40, 40, True), (40, 25, False)])
def test_exact_cost_is_that_of_pot(n, m, weighted):
    source, target = snapshots(n, m, masses=weighted)
    plan = Exact()(source, target)
    masses = source.weights.numpy(), target.weights.numpy()
    assert plan.cost == pytest.approx(ot.emd2(*masses, half_cost(source, target)), rel=1e-9)
    assert plan.is_permutation == (n == m and not weighted)
    assert len(plan.rows) <= n + m - 1


def test_exact_sorts_a_line():
    """In one dimension the optimal plan is the monotone one."""
    source, target = snapshots(30, d=1)
    plan = Exact()(source, target)
    assert torch.equal(target.x[plan.cols, 0].argsort(), source.x[plan.rows, 0].argsort())


def test_exact_finds_a_translation():
    source, _ = snapshots(50, d=10)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    plan = Exact()(source, Snapshot(source.x[order] + 3.0, 1.0))
    assert torch.equal(order[plan.cols], plan.rows)
    assert plan.cost == pytest.approx(0.5 * 10 * 9.0)


@pytest.mark.parametrize("d", [2, 30])
@pytest.mark.parametrize(("n", "m", "weighted"), [(1500, 1500, True), (2500, 1000, False)])
def test_exact_plan_of_large_snapshots_is_that_of_pot(n, m, weighted, d):
    """By column generation, which two million pairs of cells are enough for."""
    source, target = snapshots(n, m, masses=weighted, d=d)
    plan, reference = Exact()(source, target), Exact(solver="pot")(source, target)
    assert plan.converged and reference.converged
    assert plan.cost == pytest.approx(reference.cost, rel=1e-13)
    assert plan.marginal_error < 1e-14
    assert len(plan.rows) <= n + m - 1
    if weighted:  # of equal masses many plans have the same flow on other pairs
        assert float((plan.dense() - reference.dense()).abs().sum()) < 1e-10


def test_exact_plan_of_repeated_cells_is_made_by_pot_and_certified():
    x = torch.zeros(1500, 3, dtype=torch.float64)
    source = Snapshot(x, 0.0, torch.rand(1500, generator=torch.Generator().manual_seed(0)) + 0.1)
    plan = Exact()(source, Snapshot(x[:1400], 1.0))
    assert plan.converged and plan.cost == 0.0


def test_exact_reports_that_its_bound_was_hit():
    source, target = snapshots(60, 40)
    short = Exact(max_iter=20)(source, target)
    assert not short.converged
    assert short.marginal_error > 0.1
    assert float(short.mass.sum()) == pytest.approx(1.0)
    assert Exact()(source, target).converged


@pytest.mark.parametrize("settings", [{"max_iter": 0}, {"solver": "simplex"}])
def test_exact_refuses_bad_settings(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`: got"):
        Exact(**settings)
