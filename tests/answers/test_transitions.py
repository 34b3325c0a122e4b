"""Transitions between groups under flows that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from cellflow import OTCFM
from cellflow.answers import chances, transitions
from cellflow.answers.labels import NEIGHBOURS, indicators
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot, TimeCourse
from known_fits import SIGMA, SPAN
from known_fits import fit as on_a_line

#: Groups by quadrant, in the order of their angle; a quarter turn takes each to the next.
QUARTERS = ("a", "b", "c", "d")
#: Number of cells in each quadrant, at all times.
SIZES = (20, 40, 60, 80)


def turning(quarters: float, growth=None) -> Fit:
    """Cells on a circle, observed at 0, 1 and 2, that turn by so many quarters per time."""
    angles = torch.cat(
        [(k + torch.linspace(0.4, 0.6, n).double()) * math.pi / 2 for k, n in enumerate(SIZES)]
    )
    x = torch.stack([angles.cos(), angles.sin()], 1)
    labels = [name for name, n in zip(QUARTERS, SIZES, strict=True) for _ in range(n)]
    rate = quarters * math.pi / 2
    known = Dynamics(lambda t, x: rate * torch.stack([-x[:, 1], x[:, 0]], 1), growth=growth)
    course = TimeCourse(tuple(Snapshot(x, float(t), labels=labels) for t in range(3)))
    return Fit(known, OTCFM(), course, nn.ModuleDict({"velocity": nn.Linear(2, 2).double()}))


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
@pytest.mark.parametrize(("times", "turns"), [((0, 1), 1), ((0, 2), 2), ((0.0, 3.0), 3)])
def test_a_rotation_moves_each_quarter_to_the_next(times, turns) -> None:
    fit = turning(1.0)
    found = transitions(fit, fit.course, times, n_futures=2)
    assert found.before == found.after == QUARTERS
    expected = torch.diag(torch.tensor(SIZES).double() / 200).roll(turns, 1)
    torch.testing.assert_close(found.mass, expected, atol=1e-6, rtol=0)


def test_cells_at_times_that_are_not_observed_have_the_labels_around_them() -> None:
    """Two quarters from 0.5 to 1.5: the labels there are those of both days next to them."""
    fit = turning(2.0)
    found = transitions(fit, fit.course, (0.5, 1.5))
    expected = torch.diag(torch.tensor(SIZES).double() / 200).roll((1, 3), (0, 1))
    torch.testing.assert_close(found.mass, expected, atol=1e-6, rtol=0)


def test_masses_grow_and_members_are_pooled() -> None:
    fits = [turning(q, lambda t, x: torch.full_like(x[:, 0], 0.5)) for q in (1.0, 2.0)]
    found = transitions(Ensemble(tuple(fits), (0, 1)), fits[0].course, (0, 1))
    parts = torch.diag(torch.tensor(SIZES).double() / 200)
    expected = math.exp(0.5) * (parts.roll(1, 1) + parts.roll(2, 1)) / 2
    torch.testing.assert_close(found.mass, expected, atol=1e-6, rtol=1e-6)


def test_noise_takes_cells_across_the_border_as_often_as_a_normal_law() -> None:
    fit = on_a_line(lambda t, x: torch.zeros_like(x))
    ends = fit.course.snapshots[1]
    start = Snapshot(torch.full((200, 1), 0.3, dtype=torch.float64), 0.0, labels=["one"] * 200)
    found = transitions(fit, TimeCourse((start, ends)), (0.0, SPAN), n_futures=100)
    right = 0.5 * (1 + math.erf(0.3 / (SIGMA * math.sqrt(2 * SPAN))))
    assert found.mass.shape == (1, 2)
    assert float(found.mass[0, 1]) == pytest.approx(right, abs=5 * math.sqrt(0.25 / 20000))
    assert float(found.mass.sum()) == pytest.approx(1.0)
    again = transitions(fit, TimeCourse((start, ends)), (0.0, SPAN), n_futures=100)
    assert torch.equal(again.mass, found.mass)


def test_time_goes_forward() -> None:
    fit = turning(1.0)
    with pytest.raises(ValueError, match="`end`: got 0, expected a time after 1"):
        transitions(fit, fit.course, (1, 0))


def test_chances_of_cells_are_fates_when_the_cells_are_summed_by_label() -> None:
    """A quarter turn: no cell comes to another quadrant than the next, and rows sum to one."""
    fit = turning(1.0)
    start, ends, _ = fit.course.snapshots
    found = chances(fit, start, ends)
    assert found.shape == (200, 200) and found.nnz == 200 * NEIGHBOURS
    np.testing.assert_allclose(found.sum(1), 1)
    marks = indicators(ends.labels, QUARTERS).numpy()
    where = np.array([QUARTERS.index(label) for label in start.labels])
    np.testing.assert_allclose(found @ marks, np.eye(4)[(where + 1) % 4], atol=1e-6)


def test_chances_weigh_futures_by_their_growth_and_pool_those_of_members() -> None:
    """A cell between two sides: the member that takes it to the right lets it grow e-fold."""
    sides = [
        on_a_line(lambda t, x: torch.full_like(x, -2.0), lambda t, x: 0.0 * x[:, 0], 0.0),
        on_a_line(lambda t, x: torch.full_like(x, 2.0), lambda t, x: 0.0 * x[:, 0] + 0.5, 0.0),
    ]
    start, ends = sides[0].course.snapshots
    found = chances(Ensemble(tuple(sides), (0, 1)), start, ends)
    shares = found @ indicators(ends.labels, ("left", "right")).numpy()
    grown = np.exp(SPAN * np.array([0.0, 0.5]))
    np.testing.assert_allclose(shares[2], grown / grown.sum(), atol=1e-6)


def test_chances_of_a_diffusion_are_those_of_its_noise() -> None:
    """From 0 without a drift to N(0, σ²·span); 4,000 futures know a half to 0.03."""
    fit = on_a_line(lambda t, x: torch.zeros_like(x))
    start, ends = fit.course.snapshots
    found = chances(fit, start, ends, n_futures=4000)
    line = ends.x[:, 0].numpy()
    mean = found @ line
    np.testing.assert_allclose(mean, start.x[:, 0], atol=0.1)
    np.testing.assert_allclose(found @ line**2 - mean**2, SIGMA**2 * SPAN, rtol=0.1)
