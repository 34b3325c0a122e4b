"""Flows on Wasserstein-Fisher-Rao geodesics: masses and positions between two Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.training.trainer import Training
from oracles import F64

PARTS = {
    "net": MLPConfig(32, 2),
    "batching": Batching(128, None, prefetch=False),
    "training": Training(learning_rate=1e-2, ema=0.98, validation=0.0),
}
N, MOVE, DELTA = 150, 1.5, 1.5


def gaussians(ratio: float) -> TimeCourse:
    """A narrow Gaussian, moved, with `ratio` times the mass; from day 0 to day 2."""
    x = 0.1 * torch.randn(2, N, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x[1, :, 0] += MOVE
    mass = torch.full((N,), 1 / N, dtype=F64)
    return TimeCourse((Snapshot(x[0], 0.0, mass), Snapshot(x[1], 2.0, ratio * mass)))


@pytest.fixture(scope="module")
def fit() -> cf.Fit:
    return cf.WFRFM(0.02, delta=DELTA, **PARTS).fit(gaussians(4.0), steps=500, progress=False)


def test_two_gaussians_move_and_grow_as_two_cells(fit: cf.Fit) -> None:
    """They are narrow for what δ is: the geodesic of their means, written out in the plane."""
    start = fit.course.snapshots[0]
    turn = torch.tensor(MOVE / (2 * DELTA), dtype=F64)
    for time in (0.6, 1.0, 1.5, 2.0):
        s = time / 2
        place = torch.stack([1 - s + s * 2 * turn.cos(), s * 2 * turn.sin()])
        found = fit.predict(start, time)
        assert float(found.mass.sum()) == pytest.approx(float(place.square().sum()), rel=0.03)
        x = float(found.weights @ found.x[:, 0].double())
        assert x == pytest.approx(MOVE * float(torch.atan2(place[1], place[0]) / turn), abs=0.05)


def test_a_large_delta_is_the_flow_of_optimal_transport() -> None:
    course = gaussians(1.0)
    wide = cf.WFRFM(0.1, delta=100.0, **PARTS).fit(course, steps=300, progress=False)
    straight = cf.OTCFM(0.1, **PARTS).fit(course, steps=300, progress=False)
    start = course.snapshots[0]
    ours, theirs = (one.predict(start, 2.0) for one in (wide, straight))
    assert_close(ours.x, theirs.x, rtol=0, atol=0.1)
    assert float(ours.mass.sum()) == pytest.approx(1.0, abs=0.01)


def test_fits_keep_what_was_measured(tmp_path) -> None:
    fit = cf.WFRFM(**PARTS).fit(gaussians(2.0), steps=2, progress=False)
    fit.save(tmp_path / "fit")
    method = cf.load(tmp_path / "fit").method
    assert method.path.delta == method.coupling.cost.delta > 0
    assert method.coupling.scales[0].reach == pytest.approx(2 * method.path.delta)
