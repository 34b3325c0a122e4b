"""Sinks found in the futures of known dynamics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cellflow import SF2M
from cellflow.answers import fates_by_flow, sinks
from cellflow.answers.sinks import modes
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot, TimeCourse

SPAN = 4.0


def fit(drift, start: torch.Tensor, sigma: float = 0.6) -> Fit:
    """Dynamics that are known; the observed cells at the end lie on a grid."""
    known = Dynamics(drift, score=lambda t, x: torch.zeros_like(x), sigma=sigma)
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)
    ends = torch.stack([grid, torch.zeros_like(grid)], 1)
    course = TimeCourse((Snapshot(start, 0.0), Snapshot(ends, SPAN)))
    return Fit(known, SF2M(sigma), course, nn.ModuleDict({"velocity": nn.Linear(2, 2).double()}))


def double_well(t, x):
    """Wells near -1 and 1 along the first axis, one at 0 along the second."""
    return 2 * (torch.stack([torch.tanh(3 * x[:, 0]), torch.zeros(len(x)).to(x)], 1) - x)


def starts(share: float = 0.5, n: int = 1500) -> torch.Tensor:
    """Cells, `share` of which start in the basin of the right well."""
    rng = np.random.default_rng(0)
    side = np.where(np.arange(n) < share * n, 0.8, -0.8)
    return torch.from_numpy(np.stack([side + rng.normal(0, 0.1, n), rng.normal(0, 0.5, n)], 1))


def test_a_double_well_has_two_sinks_whose_border_is_between_them() -> None:
    wells = fit(double_well, starts(0.7))
    first, end = wells.course.snapshots
    found = sinks(wells, end)
    x = end.x[:, 0]
    assert set(found.tolist()) == {0, 1}
    assert (found[x > 0.25] == 0).all()  # the heavier one first
    assert (found[x < -0.25] == 1).all()
    assert torch.equal(found, sinks(wells, end))
    named = Snapshot(end.x, end.time, labels=[f"sink {k + 1}" for k in found.tolist()])
    fates = fates_by_flow(wells, first, named, n_futures=50).probabilities
    basin = (first.x[:, 0] < 0).long()
    own = fates.gather(1, basin[:, None])[:, 0]
    assert float((own > 0.5).double().mean()) > 0.97  # noise takes some across


def test_a_single_well_has_one_sink() -> None:
    """Also where the cells start in two groups, of which the end knows nothing."""
    single = fit(lambda t, x: -2.0 * x, starts())
    assert sinks(single, single.course.snapshots[1]).unique().tolist() == [0]


def test_members_are_pooled() -> None:
    """One member takes all cells to the left, one to the right: two sinks of equal mass."""
    both = [fit(lambda t, x, v=v: v - x, starts(), 0.3) for v in (-1.5, 1.5)]
    ends = both[0].course.snapshots[1]
    found = sinks(Ensemble(tuple(both), (0, 1)), ends)
    assert len(set(found.tolist())) == 2
    assert (found[ends.x[:, 0] > 0.5] == found[-1]).all()
    assert (found[ends.x[:, 0] < -0.5] == found[0]).all()


@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("apart", [0.0, 2.0, 6.0])
def test_modes_are_those_of_the_density(dim: int, apart: float) -> None:
    """Two equal Gaussians have two modes if they are more than two deviations apart."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1500, dim))
    right = np.arange(1500) < 750
    x[:, 0] += np.where(right, apart, 0.0)
    places = torch.from_numpy(x)
    found = modes(places, places, torch.full((1500,), 1 / 1500).double()).numpy()
    assert len(np.unique(found)) == (2 if apart > 2 else 1)
    if apart > 2:
        same = np.mean(found == right)
        assert max(same, 1 - same) > 0.99


def test_weak_groups_take_no_cells_and_mass_decides_who_is_weak() -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(1000, 2)))
    x[:30, 0] += 12.0
    equal = torch.full((1000,), 1e-3).double()
    assert modes(x, x, equal).unique().tolist() == [0]
    heavy = equal.clone()
    heavy[:30] *= 10
    heavy /= heavy.sum()
    found = modes(x, x, heavy)
    assert (found[:30] == 1).all()
    assert (found[30:] == 0).all()


def test_there_is_no_sink_before_the_course() -> None:
    single = fit(lambda t, x: -x, starts())
    with pytest.raises(ValueError, match="`ends`: got cells at time 0, .* after the first"):
        sinks(single, single.course.snapshots[0])
