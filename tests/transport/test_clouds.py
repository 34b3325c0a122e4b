"""Couplings of whole snapshots of unequal masses, and of hard clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from cellflow.couplings import Exact, Hierarchical
from cellflow.couplings.hierarchical import sorted_clouds
from cellflow.timecourse import Snapshot
from cellflow.transport.clouds.equal_mass_pieces import (
    Entries,
    cost_of,
    cut,
    joined,
    merged,
    transport,
)
from cellflow.transport.clouds.matching import Run, tree
from clouds import snapshots

# --- any masses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "masses"), [(1200, 700, False), (700, 1200, True), (600, 1200, 0)]
)
def test_masses_are_respected_and_the_cost_is_near_the_optimum(n, m, masses):
    source, target = snapshots(n, m, masses=masses)
    plan = Hierarchical(tolerance=1e-5)(source, target)
    assert plan.marginal_error <= 1e-12
    assert_close(plan.row_mass, source.weights, rtol=1e-11, atol=0)
    assert_close(plan.col_mass, target.weights, rtol=1e-11, atol=0)
    assert float(plan.mass.min()) > 0
    assert len(plan.mass) <= 4 * (n + m)
    best = Exact()(source, target).cost
    assert best * (1 - 1e-9) <= plan.cost <= 1.01 * best
    assert 0.8 * best <= plan.lower_bound <= best


def test_pieces_are_equal_and_made_of_neighbours():
    source, _ = snapshots(500, masses=True)
    x, weights = source.x.float().numpy(), source.weights.numpy()
    pieces = cut(x, weights, 300, run=Run(torch.Generator().manual_seed(0)))
    owner = np.repeat(np.arange(300), np.diff(pieces.starts))
    np.testing.assert_allclose(np.bincount(owner, pieces.mass), 1 / 300, rtol=1e-12)
    np.testing.assert_allclose(np.bincount(pieces.cells, pieces.mass), weights, rtol=1e-12)
    assert len(pieces.cells) <= 800
    centres = pieces.centres(x)
    np.testing.assert_allclose(centres.mean(0), weights @ x, atol=1e-6)
    spread = pieces.mass @ ((x[pieces.cells] - centres[owner]) ** 2).sum(1)
    assert spread < 0.15 * x.var(0).sum()


def test_pairs_of_pieces_hold_the_masses_of_their_cells():
    source, target = snapshots(400, 300, masses=True)
    x, y = source.x.float().numpy(), target.x.float().numpy()
    run = Run(torch.Generator().manual_seed(0))
    left, right = cut(x, source.weights.numpy(), 500, run=run), cut(y, None, 500, run=run)
    pairs = joined(left, right, np.random.default_rng(0).permutation(500))
    np.testing.assert_allclose(np.bincount(pairs.rows, pairs.mass), source.weights, rtol=1e-11)
    np.testing.assert_allclose(np.bincount(pairs.cols, pairs.mass), 1 / 300, rtol=1e-11)
    assert len(pairs.mass) <= 400 + 300 + 2 * 500
    cost, price = cost_of((x, y), pairs), np.zeros(300, np.float32)
    root = torch.eye(5, dtype=torch.float64)
    for _ in range(3):  # what exact transport in blocks gains, and that it keeps the masses
        blocks = tree((x, y), pairs[:2], leaves=9, root=root, run=run)
        pairs, gain = transport((x, y), pairs, price, blocks=blocks)
        assert gain > 0
        assert cost_of((x, y), pairs) == pytest.approx(cost - gain, rel=1e-5)
        cost -= gain
    np.testing.assert_allclose(np.bincount(pairs.rows, pairs.mass), source.weights, rtol=1e-11)


# --- edges --------------------------------------------------------------------------------------


g = torch.Generator().manual_seed(0)
X = torch.randn(300, 3, generator=g, dtype=torch.float64)
LINE = torch.linspace(0, 1, 300, dtype=torch.float64)[:, None]
CLOUDS = {
    "one point": torch.ones_like(X),
    "two points": torch.ones_like(X) * (torch.arange(300) % 2)[:, None],
    "duplicates": X[torch.arange(300) // 10],
    "constant dimension": X * torch.tensor([1.0, 0.0, 1.0]),
    "collinear": LINE * torch.tensor([1.0, 2.0, 3.0]),
    "lattice": (2 * X).round(),
    "outlier": torch.cat([X[:-1], 1e6 * X[-1:]]),
    "tiny": 1e-150 * X,
    "huge": 1e120 * X,
    "far": X + 1e7,
}


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("partner", ["same", "shifted", "other"])
def test_hierarchical_is_near_the_optimum_on_degenerate_clouds(kind, partner):
    x, g = CLOUDS[kind], torch.Generator().manual_seed(1)
    scale = {"tiny": 1e-150, "huge": 1e120}.get(kind, 1.0)
    y = {
        "same": lambda: x,
        "shifted": lambda: x + scale,
        "other": lambda: scale * torch.randn(300, 3, generator=g, dtype=torch.float64),
    }[partner]()
    source, target = Snapshot(x, 0.0), Snapshot(y[torch.randperm(300, generator=g)], 1.0)
    plan = Hierarchical(64, sweeps=40, tolerance=0.0)(source, target)
    best = Exact()(source, target).cost
    spread = float((x - x.mean(0)).square().sum(1).mean() + (y - y.mean(0)).square().sum(1).mean())
    slack = 0.03 * best + 2e-4 * spread
    assert plan.is_permutation
    assert plan.cost <= best + slack
    assert 0 <= plan.lower_bound <= best * (1 + 1e-9)
    uneven = Hierarchical(32, sweeps=10)(source, target.subset(torch.arange(200)))
    assert uneven.marginal_error <= 1e-12
    assert np.isfinite(uneven.cost)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 300), (300, 1), (2, 300)])
def test_hierarchical_respects_masses_of_very_different_sizes(n, m):
    source, target = snapshots(n, m)
    plan = Hierarchical(16)(source, target)
    assert plan.marginal_error <= 1e-12
    assert plan.cost == pytest.approx(Exact()(source, target).cost, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value"), [("block_size", 1), ("sweeps", 0), ("tolerance", -1.0), ("seed", -1)]
)
def test_hierarchical_refuses_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}`: got {value}"):
        Hierarchical(**{name: value})


def test_single_precision_far_from_the_origin():
    source, target = snapshots(600)
    far = [Snapshot((s.x + 1e6).float(), s.time) for s in (source, target)]
    cells = sorted_clouds(*far)
    assert abs(cells.x.mean(0) + cells.y.mean(0)).max() < 1e-6
    best = Exact()(*far).cost
    assert Hierarchical(64)(*far).cost == pytest.approx(best, rel=0.02)


def test_pairs_are_merged():
    pairs = merged(Entries(np.array([1, 0, 1]), np.array([2, 5, 2]), np.array([0.25, 0.5, 0.25])))
    assert [part.tolist() for part in pairs] == [[0, 1], [5, 2], [0.5, 0.5]]
