"""Exact transport: linear programming, assignment, sorting and closed forms as oracles."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats
import torch
from scipy.spatial.distance import cdist

from cellflow import metrics, toys
from closed_forms import gaussian_w2


def clouds(n=60, m=45, d=3):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = 1.5 * torch.randn(m, d, generator=g, dtype=torch.float64) + 0.7
    return x, y


def test_translation_costs_its_length():
    x, _ = clouds(200)
    y = (x + torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)).flip(0)
    assert metrics.wasserstein1(x, y) == pytest.approx(3.0, rel=1e-12)
    assert metrics.wasserstein2(x, y) == pytest.approx(3.0, rel=1e-12)


def test_wasserstein_against_assignment_of_2000_cells():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2_000, 5)), 1.2 * rng.normal(size=(2_000, 5)) + 0.5
    cost = cdist(x, y)
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    assert metrics.wasserstein1(x, y) == pytest.approx(best, rel=1e-10)


def test_wasserstein_where_the_default_pivots_do_not_suffice():
    # The gradient of a convex function moves any sample optimally: exact at any number of cells.
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4_200, 5, generator=g, dtype=torch.float64)
    a = torch.randn(5, 5, generator=g, dtype=torch.float64)
    y = x @ (a @ a.T)
    order = torch.randperm(len(x), generator=g)
    exact = float((x - y).square().sum(1).mean().sqrt())
    assert metrics.wasserstein2(x, y[order]) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_wasserstein_with_masses_against_linear_programming(power):
    x, y = clouds(12, 9)
    a, b = torch.rand(12, generator=torch.Generator().manual_seed(2)), torch.arange(1.0, 10.0)
    name = "euclidean" if power == 1 else "sqeuclidean"
    cost = cdist(x, y, name)
    rows = np.kron(np.eye(12), np.ones(9)), np.kron(np.ones(12), np.eye(9))
    marginals = np.concatenate([a.double() / a.double().sum(), b.double() / b.sum()])
    lp = scipy.optimize.linprog(cost.ravel(), A_eq=np.vstack(rows), b_eq=marginals)
    f = metrics.wasserstein1 if power == 1 else metrics.wasserstein2
    assert f(x, y, x_mass=a, y_mass=b) ** power == pytest.approx(lp.fun, rel=1e-8)


def test_one_dimension_against_scipy():
    x, y = clouds(300, 211, d=1)
    a, b = torch.rand(300, generator=torch.Generator().manual_seed(2)), torch.arange(1.0, 212.0)
    ours = metrics.wasserstein1(x, y, x_mass=a, y_mass=b)
    theirs = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], a, b)
    assert ours == pytest.approx(theirs, rel=1e-10)
    ours = metrics.wasserstein2(x, y, x_mass=a, y_mass=b)
    weights = (a.double() / a.double().sum()).numpy(), (b.double() / b.sum()).numpy()
    theirs = ot.emd2_1d(x[:, 0].numpy(), y[:, 0].numpy(), *weights, metric="sqeuclidean")
    assert ours**2 == pytest.approx(float(theirs), rel=1e-10)
    for f in (metrics.wasserstein1, metrics.wasserstein2):  # the line inside the plane
        flat = f(torch.cat([x, 0 * x], 1), torch.cat([y, 0 * y], 1), x_mass=a, y_mass=b)
        assert f(x, y, x_mass=a, y_mass=b) == pytest.approx(flat, rel=1e-9)


def test_w2_of_normal_samples_matches_the_closed_form():
    n, source = 4_000, toys.Gaussian([0.0], [[1.0]])
    target = toys.Gaussian([2.0], [[4.0]])
    x = source.sample(n, generator=0).float()
    y = target.sample(n, generator=1).float()
    # Delta method: W2² = (m0 - m1)² + (s0 - s1)², with independent estimates of m and s.
    se = ((4 * 4 * (1 + 4) + 4 * 1 * (0.5 + 2.0)) / n) ** 0.5
    exact = gaussian_w2(source, target) ** 2
    assert abs(metrics.wasserstein2(x, y) ** 2 - exact) < 4 * se


def test_unconverged_transport_is_an_error():
    x, y = clouds(300, 300)
    with pytest.raises(RuntimeError, match="no optimum after 50 pivots for 300 × 300 cells"):
        metrics.wasserstein1(x, y, max_iter=50)
    with pytest.raises(ValueError, match="`max_iter`: got 0, expected an integer of at least 1"):
        metrics.wasserstein1(x, y, max_iter=0)


def test_suboptimal_plan_fails_its_certificate(monkeypatch):
    solve = ot.emd

    def worse(a, b, cost, **options):
        plan, log = solve(a, b, -cost, **options)  # the worst plan, reported as optimal
        return plan, {**log, "cost": (plan * cost).sum()}

    monkeypatch.setattr(ot, "emd", worse)
    with pytest.raises(RuntimeError, match="dual gap of"):
        metrics.wasserstein2(*clouds())


@pytest.mark.parametrize("unit", [1e-9, 1e-30, 1e30])
@pytest.mark.parametrize("metric", [metrics.wasserstein1, metrics.wasserstein2])
def test_data_in_any_unit(metric, unit):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    assert metric(unit * x, unit * y) == pytest.approx(unit * metric(x, y), rel=1e-9)
