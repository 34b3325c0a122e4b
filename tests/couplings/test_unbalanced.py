"""Unbalanced couplings against closed forms and POT, at the ends of their range, refusals."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Entropic, Unbalanced
from cellflow.plans import DensePlan
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve
from clouds import embryoid, half_cost, pair

WEIGHTED = {"masses": (0.2, 0.2)}


def problem(source, target):
    """Masses, costs, and the mean cost, in numpy."""
    a, b = source.weights.numpy(), target.weights.numpy()
    cost = half_cost(source, target)
    return a, b, cost, float(a @ cost @ b)


def assert_solves(plan, expected, source):
    """Compare a plan with growth with the unbalanced plan `expected`, up to its total."""
    expected = torch.as_tensor(expected)
    expected = expected / expected.sum()
    rows = expected.sum(1)
    assert_close(
        plan.dense(), source.weights[:, None] * expected / rows[:, None], atol=1e-7, rtol=0
    )
    growth = plan.source_growth - torch.logsumexp(plan.source_growth + source.weights.log(), 0)
    assert_close(growth, (rows / source.weights).log(), atol=1e-6, rtol=0)


# --- against other solvers --------------------------------------------------------------------


@pytest.mark.parametrize("relaxation", [1.0, 0.3, 0.1, None])
@pytest.mark.parametrize("relative", [0.02, 1.0])
@pytest.mark.parametrize("solver", ["auto", "batched"])
def test_unbalanced_agrees_with_pot(relaxation, relative, solver):
    source, target = pair(**WEIGHTED)
    a, b, cost, unit = problem(source, target)
    coupling = Unbalanced(
        epsilon=relative * unit, relaxation=relaxation, tolerance=1e-10, solver=solver
    )
    expected = ot.unbalanced.sinkhorn_unbalanced(
        a,
        b,
        cost,
        relative * unit,
        (np.inf if relaxation is None else relaxation * unit, np.inf),
        reg_type="kl",
        numItermax=50_000,
        stopThr=1e-13,
    )
    assert_solves(coupling(source, target), expected, source)


def test_unbalanced_of_small_epsilon_agrees_with_majorisation():
    """POT's multiplicative updates solve the problem without entropy."""
    source, target = pair(7, 6, **WEIGHTED)
    a, b, cost, unit = problem(source, target)
    plan = Unbalanced(relative_epsilon=1e-5, relaxation=0.5)(source, target)
    expected = ot.unbalanced.mm_unbalanced(
        a, b, cost, (0.5 * unit, 50 * unit), div="kl", numItermax=200_000, stopThr=1e-16
    )
    growth = torch.as_tensor(expected).sum(1)
    growth = (growth / growth.sum() / source.weights).log()
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, growth, atol=1e-3, rtol=0)


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [1e-3, 0.1, 3.0])
def test_unbalanced_of_one_target_cell_in_closed_form(relative):
    """Rows are proportional to ``a exp(−c / (ρ + ε))``."""
    source, target = pair(20, 1, **WEIGHTED)
    a, _, cost, unit = problem(source, target)
    epsilon = relative * unit
    expected = a * np.exp(-cost[:, 0] / (0.7 * unit + epsilon))
    coupling = Unbalanced(epsilon=epsilon, relaxation=0.7, tolerance=1e-10)
    assert_solves(coupling(source, target), expected[:, None], source)


def clusters(shares=((0.5, 0.5), (0.8, 0.2)), *, gap=20.0, growth=None):
    """Two tight groups of cells, whose shares change."""
    g = torch.Generator().manual_seed(0)
    out = []
    for time, share in enumerate(shares):
        x = 0.1 * torch.randn(20, 2, generator=g, dtype=torch.float64)
        x[10:, 0] += gap
        mass = torch.tensor(share, dtype=torch.float64).repeat_interleave(10)
        rates = growth if time == 0 else None
        out.append(Snapshot(x, float(time), mass, growth=rates))
    return out


def test_growth_of_distant_clusters_is_the_ratio_of_their_shares():
    """Too far apart to exchange cells, they grow by the ratio of their shares."""
    source, target = clusters()
    plan = Unbalanced()(source, target)
    means = plan.source_growth.exp().view(2, 10).mean(1)
    assert_close(means, torch.tensor([1.6, 0.4], dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(plan.target_growth, torch.zeros(20, dtype=torch.float64), atol=2e-6, rtol=0)
    assert float(plan.dense()[:10, 10:].sum() + plan.dense()[10:, :10].sum()) < 1e-12


def test_unbalanced_with_exact_marginals_exchanges_cells_between_clusters():
    source, target = clusters()
    plan = Unbalanced(relaxation=None)(source, target)
    assert_close(plan.source_growth, torch.zeros(20, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(plan.dense()[10:, :10].sum()) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("relaxation", [0.5, None])
def test_growth_is_the_prior_where_it_explains_the_masses(relaxation):
    """Nothing is left to pay for: whatever the relaxation, growth is prior times span."""
    rates = torch.tensor([0.8, 0.2], dtype=torch.float64).log().repeat_interleave(10)
    source, target = clusters(growth=rates / 2.0)
    target = Snapshot(target.x, 2.0, 30.0 * target.mass)
    plan = Unbalanced(relaxation=relaxation)(source, target)
    # Shares go from ½ to 0.8 and 0.2, the total from 10 to 300.
    by_cluster = plan.source_growth.exp().view(2, 10).mean(1)
    assert_close(by_cluster, torch.tensor([48.0, 12.0], dtype=torch.float64), atol=1e-4, rtol=0)
    if relaxation is None:
        const = plan.source_growth - source.growth * 2.0
        assert float(const.max() - const.min()) < 1e-12


def test_prior_growth_is_per_unit_of_time():
    source, target = pair(span=2.0, **WEIGHTED)
    rates = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)
    half = Snapshot(source.x, 0.0, source.mass, growth=rates)
    full = Snapshot(source.x, 1.0, source.mass, growth=2.0 * rates)
    one, other = Unbalanced()(half, target), Unbalanced()(full, target)
    assert_close(one.source_growth, other.source_growth)
    assert float((one.source_growth - Unbalanced()(source, target).source_growth).std()) > 0.3


def test_unbalanced_of_least_relaxation_in_closed_form():
    """Without a price on the source's masses, each target cell picks its own ancestors."""
    source, target = pair(**WEIGHTED)
    a, b, cost, unit = problem(source, target)
    plan = Unbalanced(relative_epsilon=1.0, relaxation=1e-3)(source, target)
    kernel = a[:, None] * np.exp(-cost / unit)
    rows = torch.as_tensor((b * kernel / kernel.sum(0)).sum(1))
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, (rows / source.weights).log(), atol=3e-3, rtol=0)


@pytest.mark.parametrize("relaxation", [1e6, None, float("inf")])
def test_unbalanced_of_strong_relaxation_is_entropic(relaxation):
    source, target = pair(**WEIGHTED)
    balanced = Entropic(epsilon=0.1, tolerance=1e-10)(source, target)
    coupling = Unbalanced(epsilon=0.1, relaxation=relaxation, tolerance=1e-10)
    plan = coupling(source, target)
    assert_close(plan.dense(), balanced.dense(), atol=1e-6, rtol=0)
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, torch.zeros_like(source.mass), atol=1e-4, rtol=0)
    assert coupling.relaxation == (None if relaxation in (None, float("inf")) else relaxation)


def test_growth_does_not_depend_on_units():
    """Neither does the plan: regularisation and relaxation are in units of the mean cost."""
    source, target = pair(**WEIGHTED)
    small = [Snapshot(1e-3 * s.x + 5.0, s.time, s.mass) for s in (source, target)]
    one, other = Unbalanced()(source, target), Unbalanced()(*small)
    assert_close(one.source_growth, other.source_growth, atol=1e-5, rtol=0)
    assert_close(one.dense(), other.dense(), atol=1e-6, rtol=0)


# --- ends of the range ------------------------------------------------------------------------


SETTINGS = {
    "default": {},
    "strong": {"relaxation": 1e4},
    "weak": {"relaxation": 0.01},
    "exact": {"relaxation": None},
    "batched": {"solver": "batched"},
}


@pytest.mark.parametrize("dim", [5, 50])
@pytest.mark.parametrize("name", SETTINGS)
def test_unbalanced_does_not_underflow_on_raw_principal_components(name, dim):
    source, target = embryoid(dim, 150, 120)
    partners = []
    for relative in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 1e3):
        plan = Unbalanced(relative_epsilon=relative, **SETTINGS[name])(source, target)
        assert plan.converged, plan.fallback
        assert plan.marginal_error <= 1e-6
        for values in (plan.dense(), plan.source_growth, plan.target_growth):
            assert bool(torch.isfinite(values).all())
        grown = plan.dense() * (plan.source_growth[:, None] + plan.target_growth).exp()
        assert plan.unmatched < 1e-9
        assert_close(grown.sum(0), target.weights)
        partners.append(plan.partners)
    assert partners[0] < 2 < 100 < partners[-1]  # the uniform plan has 120
    assert all(np.diff(partners) > -1e-6)


@pytest.mark.parametrize("relaxations", [(1e6, 1e6), (np.inf, 1.0), (1.0, np.inf), (1.0, 0.01)])
def test_unbalanced_converges_in_few_steps_at_any_penalty(relaxations):
    """Plain sweeps would take some ρ / ε of them, here up to 1e10."""
    source, target = embryoid(5, 150, 120)
    cost = torch.as_tensor(half_cost(source, target))
    unit = float(cost.mean())
    masses = source.weights, target.weights
    sides = [Marginal(a, r * unit) for a, r in zip(masses, relaxations, strict=True)]
    marginals = Marginals(*sides, relative=True)
    s = solve(Problem(cost, marginals, 1e-4 * unit), tolerance=1e-8, max_iter=4000)
    assert s.error <= 1e-8
    assert s.iterations < 400


def test_growth_of_a_cell_without_descendants_is_bounded_and_counted():
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


def test_growth_of_extreme_priors_is_finite():
    source, target = pair()
    rates = torch.zeros(20, dtype=torch.float64)
    rates[0], rates[1] = 1e4, -1e4
    plan = Unbalanced()(Snapshot(source.x, 0.0, source.mass, growth=rates), target)
    assert bool(torch.isfinite(plan.source_growth).all())
    assert plan.converged
    assert plan.childless > 0.5


def test_unbalanced_between_coincident_cells_is_uniform():
    zeros = Snapshot(torch.zeros(4, 2), 0.0), Snapshot(torch.zeros(3, 2), 1.0)
    plan = Unbalanced()(*zeros)
    assert_close(plan.dense(), torch.full((4, 3), 1 / 12, dtype=torch.float64))
    assert_close(plan.source_growth, torch.zeros(4, dtype=torch.float64))


def test_unbalanced_says_when_it_did_not_converge():
    source, target = pair()
    plan = Unbalanced(relative_epsilon=1e-3, max_iter=2)(source, target)
    assert not plan.converged
    assert "unbalanced sinkhorn did not converge at epsilon" in plan.fallback
    assert plan.marginal_error == 2.0
    assert_close(plan.row_mass, source.weights)


BAD = {
    "both": (lambda: Unbalanced(1.0, 1.0), "`sigma, epsilon`: got both, expected at most one"),
    "sigma": (lambda: Unbalanced(sigma=0.0), "`sigma`: got 0.0, expected a finite number in"),
    "epsilon": (lambda: Unbalanced(epsilon=-1.0), "`epsilon`: got -1.0"),
    "ratio": (lambda: Unbalanced(relative_epsilon=0.0), "`relative_epsilon`: got 0.0"),
    "relaxation": (lambda: Unbalanced(relaxation=0.0), "`relaxation`: got 0.0, expected a finite"),
    "nan": (lambda: Unbalanced(relaxation=float("nan")), "`relaxation`: got nan"),
    "solver": (lambda: Unbalanced(solver="batch"), "Did you mean 'batched'"),
    "tolerance": (lambda: Unbalanced(tolerance=0.0), "`tolerance`: got 0.0"),
    "max_iter": (lambda: Unbalanced(max_iter=0), "`max_iter`: got 0"),
    "span": (lambda: Unbalanced(1.0)(*pair(span=-1.0)), "`span`: got -1.0"),
}


@pytest.mark.parametrize(("call", "text"), BAD.values(), ids=BAD)
def test_unbalanced_refuses_bad_settings(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_prior_growth_needs_time_to_pass():
    source, target = pair(span=-1.0)
    grows = Snapshot(source.x, 0.0, growth=torch.zeros(20))
    with pytest.raises(ValueError, match="`span`: got -1.0"):
        Unbalanced()(grows, target)


# --- the fields that hold growth --------------------------------------------------------------


def test_snapshot_growth_follows_its_cells():
    xs = [torch.randn(4, 2), torch.randn(3, 2, dtype=torch.float64)]
    course = TimeCourse.from_arrays(xs, [0.0, 2.0], growths=[[1, 2, 3, 4], None])
    first, last = course.snapshots
    assert first.growth.dtype == torch.float64
    assert last.growth is None
    assert first.subset(torch.tensor([2, 0])).growth.tolist() == [3.0, 1.0]
    assert course.to(dtype=torch.float32).snapshots[0].growth.dtype == torch.float32
    assert course.map(lambda x: x[:, :1]).snapshots[0].growth.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert course.steps[0][0] is first


def test_course_growth_per_interval_survives_retiming():
    course = TimeCourse.from_arrays([torch.zeros(1, 1)] * 3, [0.0, 2.0, 3.0], growths=[[1.0]] * 3)
    rates = [s.growth.item() for s in course.retimed([0, 1, 5]).snapshots]
    assert rates == [2.0, 0.25, 0.25]


BAD_GROWTH = {
    "shape": ([1.0, 2.0], r"`growth`: got shape \(2,\), expected \(3,\)"),
    "nan": ([1.0, np.nan, 0.0], "`growth`: got NaN or infinite values, expected finite rates"),
}


@pytest.mark.parametrize(("growth", "text"), BAD_GROWTH.values(), ids=BAD_GROWTH)
def test_snapshot_refuses_bad_growth(growth, text):
    with pytest.raises(ValueError, match=text):
        Snapshot(torch.zeros(3, 1), 0.0, growth=growth)


def test_course_refuses_other_numbers_of_growths_than_times():
    with pytest.raises(ValueError, match="`growths`: got 1 arrays, expected 2"):
        TimeCourse.from_arrays([torch.zeros(1, 1)] * 2, growths=[[1.0]])


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_plan_refuses_growth_of_one_side_only(sides):
    growth = [torch.zeros(2) if side else None for side in sides]
    plan = {"matrix": torch.full((2, 2), 0.25), "cost": 0.0}
    with pytest.raises(ValueError, match="growth`: got None, expected .* Give both or neither"):
        DensePlan(**plan, source_growth=growth[0], target_growth=growth[1])


def test_plan_refuses_growth_of_other_shape_than_cells():
    plan = {"matrix": torch.full((2, 3), 1 / 6), "cost": 0.0}
    with pytest.raises(ValueError, match=r"`target_growth`: got shape \(2,\), expected \(3,\)"):
        DensePlan(**plan, source_growth=torch.zeros(2), target_growth=torch.zeros(2))
