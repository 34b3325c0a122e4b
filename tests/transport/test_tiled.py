"""Entropic plans that are never matrices, against those that are, and against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import clouds
from cellflow.couplings import Entropic, entropic
from cellflow.plans import DensePlan, PotentialPlan
from cellflow.plans.forms import potential_plan
from cellflow.timecourse import Snapshot
from cellflow.toys import Gaussian, GaussianBridge
from cellflow.transport.entropic import tiled
from cellflow.transport.entropic.tiled import Gibbs

F64 = torch.float64


def pair(n=300, m=280, *, d=5, shift=0.0):
    source, target = clouds.pair(n, m, d=d, masses=(0.1, None))
    return source, Snapshot(target.x + shift, 1.0)


def plan_of(gibbs, masses, h):
    return potential_plan(gibbs, masses, h, shift=torch.zeros(5, dtype=F64), fallback=None)


@pytest.fixture
def tiny(monkeypatch):
    """Tiles of two rows and a bit, for every plan of more than ten entries."""
    monkeypatch.setattr(entropic, "LARGE", 10)
    monkeypatch.setattr(tiled, "ENTRIES", 700)
    monkeypatch.setattr(tiled, "SAMPLE", 64)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 20.0])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_tiled_plan_is_that_of_the_matrix(epsilon, shift, request) -> None:
    source, target = pair(shift=shift)
    coupling = Entropic(epsilon=epsilon, tolerance=1e-9)
    dense = coupling(source, target)
    request.getfixturevalue("tiny")
    plan = coupling(source, target)
    assert isinstance(dense, DensePlan)
    assert isinstance(plan, PotentialPlan)
    assert plan.converged
    assert plan.fallback is None
    assert plan.shape == dense.shape
    assert plan.marginal_error <= 1e-9
    assert_close(plan.dense(), dense.dense(), atol=1e-8, rtol=0)
    assert_close(plan.row_mass, source.weights)
    assert_close(plan.col_mass, plan.dense().sum(0))
    assert_close(plan.col_mass, target.weights, atol=1e-9, rtol=0)
    assert plan.cost == pytest.approx(dense.cost, rel=1e-8)
    assert plan.partners == pytest.approx(dense.partners, rel=1e-7)
    # The same strata of the same cumulated mass: the very same pairs.
    for found, expected in zip(plan.sample(2000, 3), dense.sample(2000, 3), strict=True):
        assert torch.equal(found, expected)


def test_tiled_pairs_are_drawn_in_proportion_to_mass(tiny) -> None:
    """Every pair floor or ceil of its share of strata, up to the one that it shares."""
    source, target = pair(12, 9)
    plan = Entropic(epsilon=1.0)(source, target)
    k = 20_000
    rows, cols = plan.sample(k, 0)
    counts = torch.zeros(12, 9, dtype=F64)
    counts.index_put_((rows, cols), torch.ones(k, dtype=F64), accumulate=True)
    assert float((counts - k * plan.dense()).abs().max()) <= 2.0
    # In random order: the first half is a sample as well.
    assert float(rows[: k // 2].double().mean()) == pytest.approx(float(rows.double().mean()), 0.05)


def test_tiled_plan_between_one_cell_and_many(tiny) -> None:
    for n, m in ((20, 1), (1, 20)):
        source, target = pair(n, m)
        plan = Entropic(epsilon=0.3)(source, target)
        assert plan.converged
        assert_close(plan.dense().sum(1), source.weights)


def test_tiled_plan_of_gaussians_in_closed_form(tiny, monkeypatch) -> None:
    """Cross-covariance of the plan between samples against that of the Schrödinger bridge."""
    monkeypatch.setattr(tiled, "ENTRIES", 2**16)
    laws = [
        Gaussian(torch.zeros(2), torch.eye(2)),
        Gaussian(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    ]
    bridge = GaussianBridge(*laws, sigma=1.0, span=0.7)
    cells = []
    for k, law in enumerate(laws):  # of exactly the law's mean and covariance
        z = torch.randn(1200, 2, generator=torch.Generator().manual_seed(k), dtype=F64)
        z = z - z.mean(0)
        z = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / 1200), z.T, upper=False)
        cells.append(law.mean.double() + z.T @ torch.linalg.cholesky(law.cov.double()).T)
    plan = Entropic(sigma=1.0)(Snapshot(cells[0], 0.0), Snapshot(cells[1], 0.7))
    x, y = (z - z.mean(0) for z in cells)
    found = x.T @ plan.dense() @ y
    # What is left is the samples' shape: some 1 / sqrt(1200), as their first moments are exact.
    assert_close(found, bridge.cross_cov.double(), atol=0.03, rtol=0)


def test_tiled_plan_says_when_it_did_not_converge(tiny) -> None:
    plan = Entropic(epsilon=0.01, max_iter=5)(*pair())
    assert not plan.converged
    assert 1e-6 < plan.marginal_error < 2
    assert "sinkhorn did not converge at epsilon 0.01: marginal error" in plan.fallback
    assert plan.fallback.endswith("after 5 iterations; its best plan is used")
    assert_close(plan.row_mass, pair()[0].weights)
    assert_close(plan.dense().sum(0), plan.col_mass)


def test_tiled_start_from_some_cells_is_near_the_solution(monkeypatch) -> None:
    monkeypatch.setattr(tiled, "SAMPLE", 150)
    source, target = pair()
    x, y = (s.x - s.x.mean(0) for s in (source, target))
    gibbs, masses = Gibbs(x, y, 0.5), (source.weights, target.weights)
    assert tiled.solve_tiled(gibbs, masses, tolerance=1e-9, max_iter=1).error < 0.3
    plain = target.weights.log() - (y * y).sum(1) / (2 * gibbs.epsilon)
    assert 0.5 < plan_of(gibbs, masses, plain).marginal_error < 2.0


def test_tiled_acceleration_beats_plain_sinkhorn() -> None:
    """Where Sinkhorn's own iteration is far from the end."""
    source, target = pair()
    x, y = (s.x - s.x.mean(0) for s in (source, target))
    gibbs, masses = Gibbs(x, y, 0.1), (source.weights, target.weights)
    fast = tiled.solve_tiled(gibbs, masses, tolerance=1e-8, max_iter=400)
    assert fast.error <= 1e-8
    h = torch.zeros(len(y), dtype=F64)
    for _ in range(fast.iterations):
        h = h + target.weights.log() - plan_of(gibbs, masses, h).col_mass.log()
    assert plan_of(gibbs, masses, h).marginal_error > 1e3 * fast.error


def test_tiled_memory_is_linear(monkeypatch) -> None:
    """No tensor of a solution, its plan or its sample has more entries than a tile."""
    monkeypatch.setattr(entropic, "LARGE", 10)
    monkeypatch.setattr(tiled, "ENTRIES", 20_000)
    monkeypatch.setattr(tiled, "SAMPLE", 32)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else [out]:
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.untyped_storage().nbytes() // 8)
            return out

    source, target = pair(1000, 900, d=2)
    with Watch():
        plan = Entropic(epsilon=2.0, tolerance=1e-4)(source, target)
        plan.sample(500, 0)
    assert plan.converged
    assert largest <= 4 * 11 * 1000  # ten steps of memory; a matrix has 900,000 entries
