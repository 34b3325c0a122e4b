"""Unbalanced couplings at the ends of their range, and what they refuse."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from cellflow.couplings import Unbalanced
from cellflow.plans.forms import DensePlan
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.transport.entropic import unbalanced
from cellflow.transport.entropic.marginals import Side


def pair(n=20, m=14, *, span=1.0):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    y = torch.randn(m, 3, generator=g, dtype=torch.float64) * 1.3 + 0.5
    return Snapshot(x, 0.0), Snapshot(y, span)


def embryoid(dim, n=150, m=120):
    with (
        resources.as_file(resources.files("cellflow.datasets") / "embryoid.npz") as path,
        np.load(path) as stored,
    ):
        x, t = stored["X"][:, :dim], stored["t"]
    return Snapshot(torch.tensor(x[t == 0][:n]), 0.0), Snapshot(torch.tensor(x[t == 1][:m]), 1.0)


SETTINGS = {
    "default": {},
    "strong": {"relaxation": 1e4, "target_relaxation": 1e4},
    "weak": {"relaxation": 0.01},
    "both": {"relaxation": 0.1, "target_relaxation": 1.0, "reg_type": "entropy"},
    "tv": {"penalty": "tv", "relaxation": 0.2},
    "tv both": {"penalty": "tv", "relaxation": 1.0, "target_relaxation": 0.5},
}


@pytest.mark.parametrize("dim", [5, 50])
@pytest.mark.parametrize("name", SETTINGS)
def test_no_regularisation_underflows_on_raw_principal_components(name, dim):
    source, target = embryoid(dim)
    partners = []
    for relative in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 1e3):
        plan = Unbalanced(relative_epsilon=relative, **SETTINGS[name])(source, target)
        assert plan.converged, plan.fallback
        assert plan.marginal_error <= 1e-6
        for values in (plan.dense(), plan.source_growth, plan.target_growth):
            assert bool(torch.isfinite(values).all())
        grown = plan.dense() * (plan.source_growth[:, None] + plan.target_growth).exp()
        lack = (target.weights - grown.sum(0)).clamp(min=0)
        assert plan.unmatched == pytest.approx(float(lack.sum()), abs=1e-6)
        assert plan.unmatched < 1e-9 or SETTINGS[name].get("target_relaxation") == 0.5
        assert_close(grown.sum(0) + lack, target.weights)
        partners.append(plan.partners)
    assert partners[0] < 2 < 100 < partners[-1]  # the uniform plan has 120
    assert all(np.diff(partners) > -1e-6)


@pytest.mark.parametrize("relaxations", [(1e6, 1e6), (np.inf, 1.0), (1.0, np.inf), (1.0, 0.01)])
def test_no_penalty_is_slow(relaxations):
    """Plain sweeps would take some ρ / ε of them, here up to 1e10."""
    source, target = embryoid(5)
    cost = torch.as_tensor(0.5 * cdist(source.x.double(), target.x.double(), "sqeuclidean"))
    unit = float(cost.mean())
    masses = source.weights, target.weights
    sides = [Side(a, r * unit, False) for a, r in zip(masses, relaxations, strict=True)]
    s = unbalanced.solve(
        cost, tuple(sides), epsilon=1e-4 * unit, relative=True, tolerance=1e-8, max_iter=4000
    )
    assert s.error <= 1e-8
    assert s.iterations < 400


def test_cells_without_descendants():
    """An outlier that nothing resembles: its growth is finite, and it is counted."""
    source, target = pair(20, 20)
    x = source.x.clone()
    x[3] = 200.0
    source = Snapshot(x, 0.0)
    # Its own cost dominates the mean cost, in units of which the relaxation is small.
    plan = Unbalanced(relaxation=0.01)(source, target)
    assert float(plan.source_growth[3]) == pytest.approx(-np.log(1e6))
    assert bool(torch.isfinite(plan.source_growth).all())
    assert plan.childless == pytest.approx(0.05)
    assert (plan.relative_growth < 0.05).nonzero().tolist() == [[3]]
    assert float(torch.dot(plan.row_mass, plan.relative_growth)) == pytest.approx(1.0)
    assert_close(plan.row_mass, source.weights)


def test_extreme_priors_stay_finite():
    source, target = pair()
    rates = torch.zeros(20, dtype=torch.float64)
    rates[0], rates[1] = 1e4, -1e4
    plan = Unbalanced()(Snapshot(source.x, 0.0, source.mass, growth=rates), target)
    assert bool(torch.isfinite(plan.source_growth).all())
    assert plan.converged
    assert plan.childless > 0.5


def test_partial_plan_of_cells_at_one_place_is_free():
    zeros = Snapshot(torch.zeros(4, 2), 0.0), Snapshot(torch.zeros(3, 2), 1.0)
    plan = Unbalanced()(*zeros)
    assert_close(plan.dense(), torch.full((4, 3), 1 / 12, dtype=torch.float64))
    assert_close(plan.source_growth, torch.zeros(4, dtype=torch.float64))


def test_what_did_not_converge_says_so_and_keeps_its_marginals():
    source, target = pair()
    plan = Unbalanced(relative_epsilon=1e-3, max_iter=2)(source, target)
    assert not plan.converged
    assert "unbalanced sinkhorn did not converge at epsilon" in plan.fallback
    assert plan.marginal_error == 2.0
    assert_close(plan.row_mass, source.weights)


def test_a_plan_without_mass_says_so():
    source, target = pair()
    target = Snapshot(target.x + 100.0, 1.0)
    plan = Unbalanced(relaxation=0.1, target_relaxation=0.1, penalty="tv")(source, target)
    assert plan.fallback == (
        "the relaxed marginals leave no mass to transport: raise the relaxation"
    )
    assert bool(torch.isfinite(plan.source_growth).all())


BAD = {
    "both": (lambda: Unbalanced(1.0, 1.0), "`sigma, epsilon`: got both, expected at most one"),
    "sigma": (lambda: Unbalanced(sigma=0.0), "`sigma`: got 0.0, expected a finite number in"),
    "epsilon": (lambda: Unbalanced(epsilon=-1.0), "`epsilon`: got -1.0"),
    "ratio": (lambda: Unbalanced(relative_epsilon=0.0), "`relative_epsilon`: got 0.0"),
    "relaxation": (lambda: Unbalanced(relaxation=0.0), "`relaxation`: got 0.0, expected a finite"),
    "nan": (lambda: Unbalanced(target_relaxation=float("nan")), "`target_relaxation`: got nan"),
    "penalty": (lambda: Unbalanced(penalty="l2"), "`penalty`: got 'l2', expected one of 'kl', 'tv"),
    "reg_type": (lambda: Unbalanced(reg_type="entropic"), "Did you mean 'entropy'"),
    "tolerance": (lambda: Unbalanced(tolerance=0.0), "`tolerance`: got 0.0"),
    "max_iter": (lambda: Unbalanced(max_iter=0), "`max_iter`: got 0"),
    "span": (lambda: Unbalanced(1.0)(*pair(span=-1.0)), "`span`: got -1.0"),
}


@pytest.mark.parametrize(("call", "text"), BAD.values(), ids=BAD)
def test_bad_settings(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_prior_growth_needs_time_to_pass():
    source, target = pair(span=-1.0)
    grows = Snapshot(source.x, 0.0, growth=torch.zeros(20))
    with pytest.raises(ValueError, match="`span`: got -1.0"):
        Unbalanced()(grows, target)


# --- the fields that hold growth --------------------------------------------------------------


def test_growth_follows_its_cells():
    xs = [torch.randn(4, 2), torch.randn(3, 2, dtype=torch.float64)]
    course = TimeCourse.from_arrays(xs, [0.0, 2.0], growths=[[1, 2, 3, 4], None])
    first, last = course.snapshots
    assert first.growth.dtype == torch.float64
    assert last.growth is None
    assert first.subset(torch.tensor([2, 0])).growth.tolist() == [3.0, 1.0]
    assert course.to(dtype=torch.float32).snapshots[0].growth.dtype == torch.float32
    assert course.map(lambda x: x[:, :1]).snapshots[0].growth.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert course.steps[0][0] is first


def test_growth_between_two_snapshots_survives_another_clock():
    course = TimeCourse.from_arrays([torch.zeros(1, 1)] * 3, [0.0, 2.0, 3.0], growths=[[1.0]] * 3)
    rates = [s.growth.item() for s in course.retimed([0, 1, 5]).snapshots]
    assert rates == [2.0, 0.25, 0.25]


BAD_GROWTH = {
    "shape": ([1.0, 2.0], r"`growth`: got shape \(2,\), expected \(3,\)"),
    "nan": ([1.0, np.nan, 0.0], "`growth`: got NaN or infinite values, expected finite rates"),
}


@pytest.mark.parametrize(("growth", "text"), BAD_GROWTH.values(), ids=BAD_GROWTH)
def test_bad_growth(growth, text):
    with pytest.raises(ValueError, match=text):
        Snapshot(torch.zeros(3, 1), 0.0, growth=growth)


def test_as_many_growths_as_times():
    with pytest.raises(ValueError, match="`growths`: got 1 arrays, expected 2"):
        TimeCourse.from_arrays([torch.zeros(1, 1)] * 2, growths=[[1.0]])


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_plans_grow_on_both_sides_or_none(sides):
    growth = [torch.zeros(2) if side else None for side in sides]
    with pytest.raises(ValueError, match="growth`: got None, expected .* Give both or neither"):
        DensePlan(
            matrix=torch.full((2, 2), 0.25),
            cost=0.0,
            source_growth=growth[0],
            target_growth=growth[1],
        )


def test_factors_fit_the_cells():
    with pytest.raises(ValueError, match=r"`target_growth`: got shape \(2,\), expected \(3,\)"):
        DensePlan(
            matrix=torch.full((2, 3), 1 / 6),
            cost=0.0,
            source_growth=torch.zeros(2),
            target_growth=torch.zeros(2),
        )
