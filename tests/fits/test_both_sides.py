"""Populations between two snapshots, predicted from both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cellflow import OTCFM, ReachFM
from cellflow.fits import Fit
from cellflow.timecourse import TimeCourse


@pytest.fixture(scope="module")
def course() -> TimeCourse:
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(n, 2, generator=generator) + 3 * k for k, n in enumerate((120, 240, 150))]
    return TimeCourse.from_arrays(xs)


@pytest.fixture(scope="module")
def fit(course: TimeCourse) -> Fit:
    return replace(OTCFM(), both_sides=True).fit(course, steps=300, progress=False)


def test_cells_of_both_neighbours_count_by_nearness(fit: Fit, course: TimeCourse) -> None:
    cells = fit.interpolate(0.25)
    before, after = fit.predict(course.snapshots[0], 0.25), fit.predict(course.snapshots[1], 0.25)
    torch.testing.assert_close(cells.x, torch.cat([before.x, after.x]))
    ratio = float(cells.mass[0] / before.mass[0]), float(cells.mass[-1] / after.mass[0])
    assert sum(ratio) == pytest.approx(1)
    per_cell = [share / len(s) for share, s in zip(ratio, (before, after), strict=True)]
    assert per_cell[0] / per_cell[1] == pytest.approx(0.75 / 0.25, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_observed_times_and_extrapolations_have_one_side(fit: Fit, course: TimeCourse) -> None:
    for k, s in enumerate(course.snapshots):
        assert torch.equal(fit.interpolate(k).x, s.x)
    assert len(fit.interpolate(2.5)) == 150
    assert len(fit.interpolate(-0.5)) == 120


@pytest.mark.parametrize("n_cells", [1, 50, 400])
def test_number_of_cells_is_the_one_asked_for(fit: Fit, n_cells: int) -> None:
    whole = fit.interpolate(0.5)
    for weighted in (True, False):
        cells = fit.interpolate(0.5, n_cells=n_cells, weighted=weighted, generator=1)
        assert len(cells) == n_cells
        if not weighted or n_cells > 1:
            assert cells.total_mass == pytest.approx(whole.total_mass, rel=1e-4)
    assert len(fit.interpolate(0.5, weighted=False)) == 120


def test_cells_drawn_by_mass_stand_for_the_weighted_ones(course: TimeCourse) -> None:
    """Each weighs the same, and means agree with those of the weighted population."""
    grown = ReachFM().fit(course, steps=300, progress=False)
    weighted, drawn = grown.interpolate(0.6), grown.interpolate(0.6, n_cells=4000, weighted=False)
    assert drawn.is_uniform
    assert 0 < weighted.effective < len(weighted)
    mean = (weighted.weights[:, None] * weighted.x).sum(0)
    torch.testing.assert_close(drawn.x.double().mean(0), mean.double(), rtol=0, atol=0.02)
