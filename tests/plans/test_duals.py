"""Duals of plans: feasible, tight where mass moves, and of the value of the plan."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Entropic, Exact, Independent, Unbalanced
from cellflow.timecourse import Snapshot
from clouds import snapshots


def clouds(n: int, m: int, *, masses: bool) -> tuple[Snapshot, Snapshot, torch.Tensor]:
    """Two clouds away from the origin and from each other, and their costs."""
    source, target = snapshots(n, m, masses=masses)
    source = Snapshot(source.x + 7.0, 0.0, source.mass)
    return source, target, 0.5 * torch.cdist(source.x, target.x).square()


@pytest.mark.parametrize(
    ("n", "m", "masses"), [(40, 40, False), (40, 25, True), (1500, 1400, True)]
)
@pytest.mark.parametrize("solver", ["auto", "pot"])
def test_exact_duals_certify_their_plan(n, m, masses, solver):
    source, target, cost = clouds(n, m, masses=masses)
    plan = Exact(solver=solver)(source, target)
    f, g = plan.duals
    slack = cost - f[:, None] - g
    assert float(slack.min()) > -1e-8
    assert_close(
        slack[plan.rows, plan.cols], torch.zeros(len(plan.rows)).double(), atol=1e-8, rtol=0
    )
    assert float(source.weights @ f + target.weights @ g) == pytest.approx(plan.cost, rel=1e-10)


def test_duals_are_the_price_of_mass():
    """By which the cost changes as mass moves from one cell to another, which POT says."""
    source, target, cost = clouds(12, 9, masses=True)
    f, g = Exact()(source, target).duals
    a, b = source.weights, target.weights
    small = 1e-6
    for price, change in (
        (f, (small * (torch.eye(12)[3] - torch.eye(12)[7]), 0)),
        (g, (0, small * (torch.eye(9)[2] - torch.eye(9)[5]))),
    ):
        moved = ot.emd2((a + change[0]).numpy(), (b + change[1]).numpy(), cost.numpy())
        k, j = (3, 7) if price is f else (2, 5)
        rate = (moved - ot.emd2(a.numpy(), b.numpy(), cost.numpy())) / small
        assert rate == pytest.approx(float(price[k] - price[j]), abs=1e-6)


@pytest.mark.parametrize(
    "coupling",
    [
        Entropic(epsilon=1.5),
        Entropic(sigma=math.sqrt(1.5)),
        Entropic(epsilon=1.5, solver="pot"),
        Unbalanced(epsilon=1.5, relaxation=None),
    ],
    ids=str,
)
@pytest.mark.parametrize("potentials", [False, True])
def test_entropic_duals_give_the_plan_and_its_value(coupling, potentials, monkeypatch):
    if potentials:
        monkeypatch.setattr("cellflow.couplings.entropic.LARGE", 10)
    source, target, cost = clouds(30, 20, masses=True)
    a, b = source.weights, target.weights
    plan = coupling(source, target)
    f, g = plan.duals
    product = a[:, None] * b
    assert_close(
        product * ((f[:, None] + g - cost) / 1.5).exp(), plan.dense(), atol=1e-8, rtol=1e-5
    )
    best = ot.bregman.sinkhorn_log(a.numpy(), b.numpy(), cost.numpy(), 1.5, 20000)
    value = float((best * cost.numpy()).sum() + 1.5 * (best * np.log(best / product.numpy())).sum())
    assert float(a @ f + b @ g) == pytest.approx(value, rel=1e-5)


def test_unbalanced_duals_are_optimal():
    """Rows of ``π = a b exp((f + g − c) / ε)`` are ``a exp(−f / ρ)`` where ρ relaxes them."""
    source, target, cost = clouds(30, 20, masses=True)
    a, b = source.weights, target.weights
    rho = float(a @ cost @ b)  # a relaxation of one
    f, g = Unbalanced(epsilon=5.0, tolerance=1e-9)(source, target).duals
    matrix = a[:, None] * b * ((f[:, None] + g - cost) / 5.0).exp()
    assert_close(matrix.sum(1), a * (-f / rho).exp(), rtol=1e-6, atol=0)
    assert_close(matrix.sum(0), b, rtol=1e-6, atol=0)


def test_plans_without_a_solver_have_no_duals():
    assert Independent()(*snapshots(5)).duals is None
