"""Entropic couplings against POT and closed forms, from hard data, and what replaces them."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from cellflow.couplings import Entropic, Exact, Independent, entropic
from cellflow.timecourse import Snapshot
from clouds import embryoid, half_cost, pair


@pytest.mark.parametrize(("n", "m", "weighted"), [(30, 30, False), (30, 20, True), (20, 30, True)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 50.0])
def test_entropic_agrees_with_pot_for_half_the_squared_distance(n, m, weighted, epsilon):
    source, target = pair(n, m, masses=(0.1, 0.1) if weighted else (None, None))
    plan = Entropic(epsilon=epsilon, tolerance=1e-10)(source, target)
    expected = ot.sinkhorn(
        source.weights.numpy(),
        target.weights.numpy(),
        half_cost(source, target),
        reg=epsilon,
        method="sinkhorn_log",
        stopThr=1e-11,
        numItermax=20_000,
    )
    assert_close(plan.dense(), torch.as_tensor(expected), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
def test_entropic_of_two_points_in_closed_form(epsilon):
    """With cost ½ off the diagonal, P₀₀ / P₀₁ = exp(½ / ε)."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    matrix = Entropic(epsilon=epsilon)(Snapshot(x, 0.0), Snapshot(x, 1.0)).dense()
    assert float(matrix[0, 0] / matrix[0, 1]) == pytest.approx(np.exp(0.5 / epsilon), rel=1e-5)


def test_sigma_follows_the_span_and_epsilon_does_not():
    one, two = pair(span=1.0), pair(span=2.0)
    assert Entropic(sigma=0.7).epsilon_for(*two) == pytest.approx(0.98)
    twice = Entropic(sigma=0.7, tolerance=1e-9)(*two).dense()
    assert_close(twice, Entropic(epsilon=0.98, tolerance=1e-9)(*one).dense(), atol=1e-8, rtol=1e-5)
    assert float((twice - Entropic(sigma=0.7)(*one).dense()).abs().sum()) > 0.05
    fixed = [Entropic(epsilon=0.98)(*snapshots).dense() for snapshots in (one, two)]
    assert torch.equal(*fixed)


@pytest.mark.parametrize("dim", [5, 20, 50, 100])
@pytest.mark.parametrize("relative", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 1e3])
def test_entropic_does_not_underflow_on_raw_principal_components(dim, relative):
    source, target = embryoid(dim, 128, 120)
    cost = half_cost(source, target)
    epsilon = relative * cost.mean()
    plan = Entropic(epsilon=epsilon)(source, target)
    assert plan.fallback is None
    assert plan.marginal_error <= 1e-6
    exact = Exact()(source, target)
    # The optimal value of <P, c> + ε KL(P | a ⊗ b) lies between the exact cost and that of
    # Exact's plan, whose divergence is at most the entropy of the masses.
    p = plan.dense()
    divergence = float(
        (p * (p / torch.outer(*(s.weights for s in (source, target)))).log()).nansum()
    )
    value = plan.cost + epsilon * divergence
    assert exact.cost <= plan.cost * (1 + 1e-6)
    assert value <= exact.cost + epsilon * np.log(128) + 1e-4 * exact.cost
    assert value <= cost.mean() * (1 + 1e-6)
    if relative <= 1e-3:
        assert plan.partners < 3  # the uniform plan has 120


@pytest.mark.parametrize("dim", [5, 20, 50, 100])
def test_entropic_is_never_uniform_by_accident(dim):
    """Partners increase with ε, all the way from one to all."""
    source, target = embryoid(dim, 200, 200)
    scale = half_cost(source, target).mean()
    factors = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0, 1e3)
    plans = [Entropic(epsilon=factor * scale)(source, target) for factor in factors]
    partners = [plan.partners for plan in plans]
    assert all(plan.fallback is None and plan.marginal_error <= 1e-6 for plan in plans)
    assert 1 <= partners[0] < 1.5 < 199 < partners[-1] <= 200
    assert all(np.diff(partners) > 0)


def test_entropic_tends_to_the_independent_plan():
    source, target = pair(20, 15, masses=(0.1, 0.1))
    wide = Entropic(epsilon=1e6)(source, target)
    assert_close(wide.dense(), Independent()(source, target).dense(), atol=1e-7, rtol=1e-4)


def awkward():
    g = torch.Generator().manual_seed(2)

    def noise(n):
        return torch.randn(n, 3, generator=g, dtype=torch.float64)

    heavy = torch.exp(2 * noise(90)[:, 0])
    labels = [10.0 * torch.randint(0, 3, (n, 1), generator=g) for n in (90, 80)]
    return {
        "log-normal masses": (Snapshot(noise(90), 0.0, heavy), Snapshot(noise(80), 1.0)),
        "clusters": (
            Snapshot(0.01 * noise(90) + labels[0], 0.0),
            Snapshot(0.01 * noise(80) + labels[1], 1.0),
        ),
        "repeated cells": (Snapshot(noise(9).repeat(10, 1), 0.0), Snapshot(noise(90), 1.0)),
        "outlier": (
            Snapshot(torch.cat([noise(79), 1e3 * noise(1)]), 0.0),
            Snapshot(noise(80), 1.0),
        ),
        "far away": (Snapshot(noise(90), 0.0), Snapshot(noise(90) + 1e5, 1.0)),
        "one cell": (Snapshot(noise(1), 0.0), Snapshot(noise(80), 1.0)),
        "same place": (Snapshot(torch.zeros(9, 3), 0.0), Snapshot(torch.zeros(8, 3), 1.0)),
    }


AWKWARD = awkward()


@pytest.mark.parametrize("relative", [1e-3, 0.03, 1.0, 1e3])
@pytest.mark.parametrize("name", AWKWARD)
def test_entropic_converges_on_awkward_data(name, relative):
    source, target = AWKWARD[name]
    x, y = (s.x - s.x.mean(0) for s in (source, target))
    scale = max(0.5 * cdist(x, y, "sqeuclidean").mean(), 1.0)
    plan = Entropic(epsilon=relative * scale)(source, target)
    assert plan.fallback is None
    assert plan.marginal_error <= 1e-6
    assert bool(torch.isfinite(plan.dense()).all())


def test_entropic_says_when_the_exact_plan_replaced_it():
    source, target = pair()
    plan = Entropic(epsilon=1e-3, max_iter=2)(source, target)
    text = "sinkhorn did not converge at epsilon 0.001: marginal error inf after 2 iterations"
    assert plan.fallback == f"{text}; the exact plan is used"
    assert plan.converged
    assert torch.equal(plan.dense(), Exact()(source, target).dense())


def test_entropic_converges_between_clusters_of_other_shares() -> None:
    """Two far clusters whose shares differ: sweeps take over where no Newton step gains."""
    g = torch.Generator().manual_seed(14)
    like = {"generator": g, "dtype": torch.float64}
    centres = 6.0 * torch.randn(2, 3, **like)

    def cloud() -> torch.Tensor:
        return centres[torch.randint(2, (128,), generator=g)] + 0.5 * torch.randn(128, 3, **like)

    plan = Entropic(epsilon=0.4)(Snapshot(cloud(), 0.0), Snapshot(cloud(), 1.0))
    assert plan.fallback is None
    assert plan.marginal_error < 1e-6


def test_entropic_of_next_to_no_noise_is_the_exact_plan() -> None:
    """Where Sinkhorn would need millions of sweeps; just above, its cost is all but the same."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 60, 5, generator=g, dtype=torch.float64)
    source, target = Snapshot(x, 0.0), Snapshot(y + 1, 1.0)
    exact = Exact()(source, target)
    tiny = Entropic(sigma=1e-4)(source, target)
    assert tiny.fallback is None
    assert torch.equal(tiny.dense(), exact.dense())
    above = Entropic(epsilon=2e-6 * exact.cost)(source, target)
    assert above.fallback is None
    assert abs(above.cost - exact.cost) < 2e-6 * exact.cost * torch.log(torch.tensor(60.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_entropic_of_pot_is_the_same_plan(weighted):
    source, target = pair(masses=(0.1, 0.1) if weighted else (None, None))
    ours, pot = (
        Entropic(epsilon=0.5, tolerance=1e-9, solver=name)(source, target)
        for name in ("auto", "pot")
    )
    assert pot.fallback is None
    assert pot.marginal_error <= 1e-9
    assert_close(pot.dense(), ours.dense(), atol=1e-8, rtol=0)
    assert pot.cost == pytest.approx(ours.cost, rel=1e-7)


def test_entropic_says_when_the_plan_of_pot_replaced_it(monkeypatch):
    """A solver that got nowhere: no data are known on which it does not converge."""
    source, target = pair()
    expected, real = Entropic(epsilon=1.0)(source, target), entropic.solve

    def lost(*args, solver, **settings):
        s = real(*args, solver=solver, **settings)
        return s if solver == "pot" else s._replace(error=float("inf"), plan=torch.zeros(20, 14))

    monkeypatch.setattr(entropic, "solve", lost)
    plan = Entropic(epsilon=1.0)(source, target)
    assert plan.fallback.startswith("sinkhorn did not converge at epsilon 1: marginal error inf")
    assert plan.fallback.endswith("iterations; the plan of POT's solver is used")
    assert_close(plan.dense(), expected.dense(), atol=1e-6, rtol=0)


BAD_ENTROPIC = {
    "neither": (lambda: Entropic(), "`sigma, epsilon`: got neither, expected exactly one of them"),
    "both": (lambda: Entropic(1.0, 1.0), "`sigma, epsilon`: got both, expected exactly one"),
    "sigma": (lambda: Entropic(sigma=0.0), "`sigma`: got 0.0, expected a finite number in"),
    "epsilon": (lambda: Entropic(epsilon=-1.0), "`epsilon`: got -1.0"),
    "nan": (lambda: Entropic(epsilon=float("nan")), "`epsilon`: got nan"),
    "tolerance": (lambda: Entropic(1.0, tolerance=0.0), "`tolerance`: got 0.0"),
    "max_iter": (lambda: Entropic(1.0, max_iter=0), "`max_iter`: got 0"),
    "solver": (lambda: Entropic(1.0, solver="sinkhorn"), "`solver`: got 'sinkhorn', expected one"),
    "span": (lambda: Entropic(1.0)(*pair(span=-1.0)), "`span`: got -1.0"),
}


@pytest.mark.parametrize(("call", "text"), BAD_ENTROPIC.values(), ids=BAD_ENTROPIC)
def test_entropic_refuses_bad_settings(call, text):
    with pytest.raises(ValueError, match=text):
        call()
