"""Unbalanced couplings against closed forms, POT and a convex solver."""

from __future__ import annotations

import warnings

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import minimize
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


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("relaxations", [(1.0, None), (0.3, 2.0), (None, 0.5), (0.1, 0.1)])
@pytest.mark.parametrize("relative", [0.02, 1.0])
def test_kl_agrees_with_pot(relaxations, relative, reg_type):
    source, target = pair()
    a, b, cost, unit = problem(source, target)
    coupling = Unbalanced(
        epsilon=relative * unit,
        relaxation=relaxations[0],
        target_relaxation=relaxations[1],
        reg_type=reg_type,
        tolerance=1e-10,
    )
    with warnings.catch_warnings():  # POT's reg_type entropy says that it overwrites `c`
        warnings.simplefilter("ignore")
        expected = ot.unbalanced.sinkhorn_unbalanced(
            a,
            b,
            cost,
            relative * unit,
            tuple(np.inf if r is None else r * unit for r in relaxations),
            reg_type=reg_type,
            numItermax=50_000,
            stopThr=1e-13,
        )
    assert_solves(coupling(source, target), expected, source)


def test_small_regularisation_agrees_with_majorisation():
    """POT's multiplicative updates solve the problem without entropy."""
    source, target = pair(7, 6)
    a, b, cost, unit = problem(source, target)
    coupling = Unbalanced(relative_epsilon=1e-5, relaxation=0.5, target_relaxation=0.5)
    plan = coupling(source, target)
    expected = ot.unbalanced.mm_unbalanced(
        a, b, cost, 0.5 * unit, div="kl", numItermax=100_000, stopThr=1e-14
    )
    growth = torch.as_tensor(expected).sum(1)
    growth = (growth / growth.sum() / source.weights).log()
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, growth, atol=1e-3, rtol=0)


@pytest.mark.parametrize("relaxations", [(0.3, None), (0.25, 0.35), (None, 0.2)])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_total_variation_agrees_with_a_convex_solver(relaxations, reg_type):
    """The primal, its absolute values written as differences of nonnegative slacks."""
    source, target = pair(4, 3, seed=3)
    a, b, cost, unit = problem(source, target)
    epsilon, n, m = 0.2 * unit, 4, 3
    reference = np.outer(a, b) if reg_type == "kl" else np.ones((n, m))
    weights = [0.0 if r is None else r * unit for r in relaxations]

    def value(z):
        p, s, t = z[: n * m].reshape(n, m), z[n * m : n * m + 2 * n], z[n * m + 2 * n :]
        entropy = (p * (np.log(p / reference) - 1)).sum()
        return ((p * cost).sum() + epsilon * entropy) / unit + (
            weights[0] * s.sum() + weights[1] * t.sum()
        ) / unit

    def gaps(z):
        p, s, t = z[: n * m].reshape(n, m), z[n * m : n * m + 2 * n], z[n * m + 2 * n :]
        rows, cols = p.sum(1) - a - s[:n] + s[n:], p.sum(0) - b - t[:m] + t[m:]
        exact = [slack for r, slack in zip(relaxations, (s, t), strict=True) if r is None]
        return np.concatenate([rows, cols, *exact])

    found = minimize(
        value,
        np.concatenate([np.outer(a, b).ravel(), np.full(2 * (n + m), 1e-3)]),
        method="SLSQP",
        bounds=[(1e-12, None)] * (n * m) + [(0.0, None)] * (2 * (n + m)),
        constraints={"type": "eq", "fun": gaps},
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    expected = torch.as_tensor(found.x[: n * m].reshape(n, m))
    coupling = Unbalanced(
        epsilon=epsilon,
        relaxation=relaxations[0],
        target_relaxation=relaxations[1],
        penalty="tv",
        reg_type=reg_type,
        tolerance=1e-10,
    )
    plan = coupling(source, target)
    rows = expected.sum(1) / expected.sum()
    assert_close(plan.dense(), expected / expected.sum(1, keepdim=True) * source.weights[:, None],
                 atol=1e-5, rtol=1e-4)  # fmt: skip
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, (rows / source.weights).log(), atol=1e-4, rtol=1e-3)
    assert float((rows - source.weights).abs().max()) > 0.01 or relaxations[0] is None


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
def test_one_target_cell_in_closed_form(relative, reg_type):
    """Rows are proportional to ``a exp(−c / (ρ + ε))``, with ``c + ε log a`` for plain entropy."""
    source, target = pair(20, 1)
    a, _, cost, unit = problem(source, target)
    epsilon = relative * unit
    charge = cost[:, 0] + (epsilon * np.log(a) if reg_type == "entropy" else 0.0)
    expected = a * np.exp(-charge / (0.7 * unit + epsilon))
    coupling = Unbalanced(epsilon=epsilon, relaxation=0.7, reg_type=reg_type, tolerance=1e-10)
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


@pytest.mark.parametrize("penalty", ["kl", "tv"])
def test_clusters_that_are_born_and_die(penalty):
    """Too far apart to exchange cells, they grow by the ratio of their shares."""
    source, target = clusters()
    relaxation = 1.0 if penalty == "kl" else 0.5  # a move costs twice the mean cost
    plan = Unbalanced(relaxation=relaxation, penalty=penalty)(source, target)
    means = plan.source_growth.exp().view(2, 10).mean(1)
    assert_close(means, torch.tensor([1.6, 0.4], dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(plan.target_growth, torch.zeros(20, dtype=torch.float64), atol=2e-6, rtol=0)
    assert float(plan.dense()[:10, 10:].sum() + plan.dense()[10:, :10].sum()) < 1e-12


def test_exact_marginals_make_the_clusters_exchange_cells_instead():
    source, target = clusters()
    plan = Unbalanced(relaxation=None)(source, target)
    assert_close(plan.source_growth, torch.zeros(20, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(plan.dense()[10:, :10].sum()) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("relaxation", [0.5, None])
def test_a_prior_that_explains_the_masses_is_the_growth(relaxation):
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


def test_relaxed_marginals_let_go():
    """Without a price on the source's masses, each target cell picks its own ancestors."""
    source, target = pair()
    a, b, cost, unit = problem(source, target)
    plan = Unbalanced(relative_epsilon=1.0, relaxation=1e-3)(source, target)
    kernel = a[:, None] * np.exp(-cost / unit)
    rows = torch.as_tensor((b * kernel / kernel.sum(0)).sum(1))
    ratio = (target.mass.sum() / source.mass.sum()).log()
    assert_close(plan.source_growth - ratio, (rows / source.weights).log(), atol=3e-3, rtol=0)


@pytest.mark.parametrize("penalty", ["kl", "tv"])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("relaxation", [1e6, None, float("inf")])
def test_strong_relaxation_is_entropic(relaxation, penalty, reg_type):
    source, target = pair()
    balanced = Entropic(epsilon=0.1, tolerance=1e-10)(source, target)
    coupling = Unbalanced(
        epsilon=0.1,
        relaxation=relaxation,
        target_relaxation=relaxation,
        penalty=penalty,
        reg_type=reg_type,
        tolerance=1e-10,
    )
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
