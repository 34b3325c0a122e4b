"""Unbalanced couplings against closed forms, POT and a convex solver."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from cellflow.couplings import Entropic, Unbalanced
from cellflow.timecourse import Snapshot


def pair(n=20, m=14, *, d=3, span=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(m, d, generator=g, dtype=torch.float64) * 1.3 + 0.5
    masses = [torch.rand(k, generator=g, dtype=torch.float64) + 0.2 for k in (n, m)]
    return Snapshot(x, 0.0, masses[0]), Snapshot(y, span, masses[1])


def problem(source, target):
    """Masses, costs, and the mean cost, in numpy."""
    a, b = source.weights.numpy(), target.weights.numpy()
    cost = 0.5 * cdist(source.x.double(), target.x.double(), "sqeuclidean")
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
    source, target = pair()
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
    source, target = pair(7, 6)
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
    source, target = pair(20, 1)
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
    source, target = pair(span=2.0)
    rates = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)
    half = Snapshot(source.x, 0.0, source.mass, growth=rates)
    full = Snapshot(source.x, 1.0, source.mass, growth=2.0 * rates)
    one, other = Unbalanced()(half, target), Unbalanced()(full, target)
    assert_close(one.source_growth, other.source_growth)
    assert float((one.source_growth - Unbalanced()(source, target).source_growth).std()) > 0.3


def test_unbalanced_of_least_relaxation_in_closed_form():
    """Without a price on the source's masses, each target cell picks its own ancestors."""
    source, target = pair()
    a, b, cost, unit = problem(source, target)
    plan = Unbalanced(relative_epsilon=1.0, relaxation=1e-3)(source, target)
    kernel = a[:, None] * np.exp(-cost / unit)
    rows = torch.as_tensor((b * kernel / kernel.sum(0)).sum(1))
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, (rows / source.weights).log(), atol=3e-3, rtol=0)


@pytest.mark.parametrize("relaxation", [1e6, None, float("inf")])
def test_unbalanced_of_strong_relaxation_is_entropic(relaxation):
    source, target = pair()
    balanced = Entropic(epsilon=0.1, tolerance=1e-10)(source, target)
    coupling = Unbalanced(epsilon=0.1, relaxation=relaxation, tolerance=1e-10)
    plan = coupling(source, target)
    assert_close(plan.dense(), balanced.dense(), atol=1e-6, rtol=0)
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, torch.zeros_like(source.mass), atol=1e-4, rtol=0)
    assert coupling.relaxation == (None if relaxation in (None, float("inf")) else relaxation)


def test_growth_does_not_depend_on_units():
    """Neither does the plan: regularisation and relaxation are in units of the mean cost."""
    source, target = pair()
    small = [Snapshot(1e-3 * s.x + 5.0, s.time, s.mass) for s in (source, target)]
    one, other = Unbalanced()(source, target), Unbalanced()(*small)
    assert_close(one.source_growth, other.source_growth, atol=1e-5, rtol=0)
    assert_close(one.dense(), other.dense(), atol=1e-6, rtol=0)
