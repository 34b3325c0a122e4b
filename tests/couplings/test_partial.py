"""Partial couplings against POT, a linear program, and what is known of the cells."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog
from torch.testing import assert_close

from cellflow.couplings import Exact, Partial
from cellflow.timecourse import Snapshot
from clouds import half_cost, pair


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.99])
def test_partial_cost_is_that_of_pot(fraction, weighted):
    source, target = pair(masses=(0.2, 0.2) if weighted else (None, None))
    plan = Partial(fraction)(source, target)
    cost = half_cost(source, target)
    masses = source.weights.numpy(), target.weights.numpy()
    expected = ot.partial.partial_wasserstein(*masses, cost, m=fraction)
    assert plan.converged
    assert plan.cost * fraction == pytest.approx((expected * cost).sum(), rel=1e-9)
    assert plan.marginal_error < 1e-12
    assert plan.unmatched == pytest.approx(1 - fraction)
    assert plan.source_growth is None


def test_partial_is_the_optimum_of_the_linear_program():
    source, target = pair(6, 5, masses=(0.2, 0.2))
    cost = half_cost(source, target)
    found = linprog(
        cost.ravel(),
        A_ub=np.vstack([np.kron(np.eye(6), np.ones(5)), np.kron(np.ones(6), np.eye(5))]),
        b_ub=np.concatenate([source.weights.numpy(), target.weights.numpy()]),
        A_eq=np.ones((1, 30)),
        b_eq=[0.6],
    )
    plan = Partial(0.6)(source, target)
    assert_close(0.6 * plan.dense(), torch.as_tensor(found.x.reshape(6, 5)), atol=1e-9, rtol=0)


def test_partial_leaves_out_cells_missing_on_the_other_side():
    """A quarter of the source has gone, and a quarter of the target was not there before."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=g, dtype=torch.float64)
    y = x + 0.01
    x[:10] += 50.0
    y[-10:] -= 50.0
    # What both have in common is half of the cells: 20 are where they were.
    plan = Partial(0.5)(Snapshot(x, 0.0), Snapshot(y, 1.0))
    assert plan.rows.tolist() == plan.cols.tolist() == list(range(10, 30))
    assert_close(plan.mass, torch.full((20,), 0.05, dtype=torch.float64))
    assert plan.row_mass.nonzero()[:, 0].tolist() == list(range(10, 30))
    assert plan.partners == pytest.approx(1.0)
    rows, _ = plan.sample(1000, 0)
    assert (int(rows.min()), int(rows.max())) == (10, 29)


def test_partial_plan_of_all_mass_is_the_exact_one():
    source, target = pair(masses=(0.2, 0.2))
    plan = Partial(1.0)(source, target)
    assert torch.equal(plan.dense(), Exact()(source, target).dense())
    assert plan.unmatched == 0.0


def test_partial_plan_of_cells_at_one_place_is_free():
    zeros = Snapshot(torch.zeros(4, 2), 0.0), Snapshot(torch.zeros(3, 2), 1.0)
    plan = Partial(0.3)(*zeros)
    assert (plan.cost, plan.converged) == (0.0, True)
    assert float(plan.mass.sum()) == pytest.approx(1.0)


def test_partial_reports_that_its_bound_was_hit():
    source, target = pair(60, 40, masses=(0.2, 0.2))
    plan = Partial(0.5, max_iter=5)(source, target)
    assert not plan.converged
    assert plan.fallback == "partial transport stopped at its bound of 5 pivots"
    assert torch.equal(plan.dense(), Exact()(source, target).dense())


BAD = {
    "none": (0.0, {}, ValueError, r"`fraction`: got 0.0, expected a finite number in \(0, 1\]"),
    "more": (1.5, {}, ValueError, "`fraction`: got 1.5"),
    "nan": (float("nan"), {}, ValueError, "`fraction`: got nan"),
    "text": ("half", {}, TypeError, "`fraction`: got 'half'"),
    "bound": (0.5, {"max_iter": 0}, ValueError, "`max_iter`: got 0"),
}


@pytest.mark.parametrize(("fraction", "more", "error", "text"), BAD.values(), ids=BAD)
def test_partial_refuses_bad_settings(fraction, more, error, text):
    with pytest.raises(error, match=text):
        Partial(fraction, **more)


@pytest.mark.parametrize("coupling", [Exact(), Partial(0.5)])
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_data_in_any_unit_are_solved_as_well(coupling, unit) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(60, 3))
    plan, scaled = (
        coupling(Snapshot(torch.tensor(k * x), 0.0), Snapshot(torch.tensor(k * y), 1.0))
        for k in (1.0, unit)
    )
    assert scaled.converged
    assert scaled.cost == pytest.approx(unit**2 * plan.cost, rel=1e-9)
