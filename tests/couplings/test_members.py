from __future__ import annotations

from importlib import resources
from types import SimpleNamespace

import numpy as np
import ot
import pytest
import torch
from scipy import sparse
from scipy.spatial.distance import cdist
from torch.testing import assert_close

from cellflow.couplings import Entropic, Exact, Given, Independent
from cellflow.timecourse import Snapshot


def pair(n=30, m=30, *, d=3, weighted=False, span=1.0):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(m, d, generator=g, dtype=torch.float64) * 1.3 + 0.5
    masses = [torch.rand(k, generator=g) + 0.1 if weighted else None for k in (n, m)]
    return Snapshot(x, 0.0, masses[0]), Snapshot(y, span, masses[1])


def half_cost(source, target):
    return 0.5 * cdist(source.x.double(), target.x.double(), "sqeuclidean")


def test_independent_is_the_product():
    source, target = pair(8, 5, weighted=True)
    expected = torch.outer(source.weights, target.weights)
    assert_close(Independent()(source, target).dense(), expected)


# --- exact ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "weighted"), [(40, 40, False), (40, 40, True), (40, 25, False)])
def test_exact_costs_what_pot_says(n, m, weighted):
    source, target = pair(n, m, weighted=weighted)
    plan = Exact()(source, target)
    masses = source.weights.numpy(), target.weights.numpy()
    assert plan.cost == pytest.approx(ot.emd2(*masses, half_cost(source, target)), rel=1e-9)
    assert plan.is_permutation == (n == m and not weighted)
    assert len(plan.rows) <= n + m - 1


def test_exact_sorts_a_line():
    """In one dimension the optimal plan is the monotone one."""
    source, target = pair(d=1)
    plan = Exact()(source, target)
    assert torch.equal(target.x[plan.cols, 0].argsort(), source.x[plan.rows, 0].argsort())


def test_exact_finds_a_translation():
    source, _ = pair(50, d=10)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    plan = Exact()(source, Snapshot(source.x[order] + 3.0, 1.0))
    assert torch.equal(order[plan.cols], plan.rows)
    assert plan.cost == pytest.approx(0.5 * 10 * 9.0)


def test_exact_says_when_its_bound_was_hit():
    source, target = pair(60, 40)
    short = Exact(max_iter=20)(source, target)
    assert not short.converged
    assert short.marginal_error > 0.1
    assert float(short.mass.sum()) == pytest.approx(1.0)
    assert Exact()(source, target).converged


# --- entropic ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "weighted"), [(30, 30, False), (30, 20, True), (20, 30, True)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 50.0])
def test_entropic_agrees_with_pot_for_half_the_squared_distance(n, m, weighted, epsilon):
    source, target = pair(n, m, weighted=weighted)
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


def embryoid(dim, n=128, m=120):
    with (
        resources.as_file(resources.files("cellflow.datasets") / "embryoid.npz") as path,
        np.load(path) as stored,
    ):
        x, t = stored["X"][:, :dim], stored["t"]
    return Snapshot(torch.tensor(x[t == 0][:n]), 0.0), Snapshot(torch.tensor(x[t == 1][:m]), 1.0)


@pytest.mark.parametrize("dim", [5, 20, 50, 100])
@pytest.mark.parametrize("relative", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 1e3])
def test_entropic_does_not_underflow_on_raw_principal_components(dim, relative):
    source, target = embryoid(dim)
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
    source, target = pair(20, 15, weighted=True)
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


BAD_ENTROPIC = {
    "neither": (lambda: Entropic(), "`sigma, epsilon`: got neither, expected exactly one of them"),
    "both": (lambda: Entropic(1.0, 1.0), "`sigma, epsilon`: got both, expected exactly one"),
    "sigma": (lambda: Entropic(sigma=0.0), "`sigma`: got 0.0, expected a finite number in"),
    "epsilon": (lambda: Entropic(epsilon=-1.0), "`epsilon`: got -1.0"),
    "nan": (lambda: Entropic(epsilon=float("nan")), "`epsilon`: got nan"),
    "tolerance": (lambda: Entropic(1.0, tolerance=0.0), "`tolerance`: got 0.0"),
    "max_iter": (lambda: Entropic(1.0, max_iter=0), "`max_iter`: got 0"),
    "solver": (lambda: Entropic(1.0, solver="sinkhorn"), "`solver`: got 'sinkhorn', expected one"),
    "exact max_iter": (lambda: Exact(max_iter=0), "`max_iter`: got 0, expected an integer"),
    "span": (lambda: Entropic(1.0)(*pair(span=-1.0)), "`span`: got -1.0"),
}


@pytest.mark.parametrize(("call", "text"), BAD_ENTROPIC.values(), ids=BAD_ENTROPIC)
def test_bad_settings(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# --- given ------------------------------------------------------------------------------------

MATRIX = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
FORMS = {
    "array": MATRIX,
    "list": MATRIX.tolist(),
    "integers": MATRIX.astype(int),
    "tensor": torch.tensor(MATRIX, dtype=torch.float32),
    "sparse tensor": torch.tensor(MATRIX).to_sparse(),
    "csr": sparse.csr_matrix(MATRIX),
    "csc array": sparse.csc_array(MATRIX),
    "coo with repeats": sparse.coo_matrix(
        ([1.0, 1.0, 1.0, 3.0], ([0, 0, 0, 1], [1, 1, 2, 0])), shape=(2, 3)
    ),
    "moscot output": SimpleNamespace(transport_matrix=torch.tensor(MATRIX)),
    "AnnData": SimpleNamespace(X=sparse.csr_matrix(MATRIX), obs=None),
    "by times": {(0, 1): MATRIX, (1, 2): MATRIX.T},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_given_plans_of_any_form(form):
    """Scaled to total one; which row carries how much (growth) is kept."""
    source, target = pair(2, 3)
    plan = Given(form)(source, target)
    assert_close(plan.dense(), torch.tensor(MATRIX / 6))
    assert len(plan.rows) == 3
    assert plan.converged
    assert plan.marginal_error == pytest.approx(np.abs(MATRIX.sum(0) / 6 - 1 / 3).sum())


def test_given_plans_are_not_cut_into_blocks():
    assert Given(MATRIX).needs_whole


BAD_GIVEN = {
    "shape": (
        MATRIX.T,
        ValueError,
        r"`plan`: got shape \(3, 2\), expected \(2, 3\): source × target",
    ),
    "vector": (MATRIX[0], ValueError, r"`plan`: got shape \(3,\), expected a matrix"),
    "negative": (-MATRIX, ValueError, "`plan`: got minimum -3, expected no negative values"),
    "nan": (MATRIX * np.nan, ValueError, "`plan`: got NaN or infinite values, expected finite"),
    "empty": (0 * MATRIX, ValueError, "`plan`: got only zeros, expected a plan with mass"),
    "text": ("plan.npz", TypeError, r"`plan`: got str, expected an \(n, m\) matrix of numbers"),
    "key": ({"0_1": MATRIX}, ValueError, "`plan`: got key '0_1', expected pairs of times as keys"),
    "times": ({(3, 4): MATRIX}, KeyError, r"got times \(0.0, 1.0\), expected one of"),
    "inside": ({(0, 1): -MATRIX}, ValueError, r"`plan\[\(0, 1\)\]`: got minimum -3"),
}


@pytest.mark.parametrize(("plan", "error", "text"), BAD_GIVEN.values(), ids=BAD_GIVEN)
def test_bad_given_plans(plan, error, text):
    with pytest.raises(error, match=text):
        Given(plan)(*pair(2, 3))
