"""Shares of labels against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellflow.answers import composition, labels_at, shares_near
from cellflow.answers.labels import indicators
from cellflow.timecourse import Snapshot, TimeCourse


def test_a_place_has_the_labels_around_it() -> None:
    """Of three neighbours of 0.4, at distances of 0.4, 0.6 and 1.6, the second is the median."""
    cells = torch.tensor([[0.0], [1.0], [2.0], [50.0]])
    marks = indicators(["a", "b", "c", "d"], ["a", "b", "c", "d"])
    found = shares_near(torch.tensor([[0.4]]), cells, marks, neighbours=3)
    weights = np.exp(-0.5 * (np.array([0.4, 0.6, 1.6]) / 0.6) ** 2)
    np.testing.assert_allclose(found, [[*weights / weights.sum(), 0]], rtol=1e-5)
    moved = shares_near(torch.tensor([[50.4]]), cells + 50, marks, neighbours=3)
    np.testing.assert_allclose(moved, found, rtol=1e-4)


def test_a_small_group_is_not_outvoted_from_afar() -> None:
    cells = torch.cat([torch.linspace(0, 1, 8)[:, None], torch.full((50, 1), 30.0)])
    marks = indicators(["few"] * 8 + ["many"] * 50, ["few", "many"])
    found = shares_near(torch.tensor([[0.5]]), cells, marks, neighbours=15)
    assert float(found[0, 0]) > 0.999


def test_cells_at_one_place_count_the_same() -> None:
    marks = indicators(["a", "a", "b"], ["a", "b"])
    found = shares_near(torch.zeros(1, 2), torch.zeros(3, 2), marks, neighbours=9)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3]])


def test_labels_come_from_the_nearest_times() -> None:
    """The same place has another label at each time: only those on both sides count."""
    x = torch.zeros(4, 1)
    snapshots = [Snapshot(x, t, labels=[name] * 4) for t, name in ((0, "a"), (1, "b"), (5, "c"))]
    course = TimeCourse(tuple(snapshots))
    for time, expected in ((0.5, ["a", "b"]), (1.0, ["b"]), (2.0, ["b", "c"]), (9.0, ["c"])):
        names, shares = labels_at(course, Snapshot(x[:1], time))
        assert names == expected
        assert float(shares.sum()) == pytest.approx(1)
    bare = TimeCourse((Snapshot(x, 0.0), Snapshot(x, 1.0)))
    with pytest.raises(ValueError, match="`course`: got no labels next to time 0.5"):
        labels_at(bare, Snapshot(x, 0.5))


def test_shares_weigh_cells_by_mass_with_an_interval_that_covers() -> None:
    """Of 300 samples of 80 cells, 95 % of the intervals hold the share of the population."""
    rng, inside, truth = torch.Generator().manual_seed(0), [], 0.3 * 2 / (0.3 * 2 + 0.7)
    for seed in range(300):
        first = torch.rand(80, generator=rng) < 0.3
        cells = Snapshot(torch.zeros(80, 1), 0.0, torch.where(first, 2.0, 1.0))
        found = composition.shares_of(cells, torch.stack([first, ~first], 1).double(), seed=seed)
        share = float(first.sum() * 2 / (first.sum() * 2 + (~first).sum()))
        assert float(found.mean[0]) == pytest.approx(share, rel=1e-6)
        inside.append(float(found.low[0]) <= truth <= float(found.high[0]))
    assert 0.90 < np.mean(inside) < 0.985


def test_interpolated_shares() -> None:
    """A quarter on: means of ½ and 0.9, and powers ¾ and ¼ of them; the time itself is not used."""
    x = torch.zeros(10, 1)
    labels = (["a"] * 5 + ["b"] * 5, ["a"] * 10, ["a"] * 9 + ["b"])
    snapshots = [Snapshot(x, t, labels=names) for t, names in zip((0, 1, 4), labels, strict=True)]
    seen = composition.observed(TimeCourse(tuple(snapshots)), ["a", "b"])
    found = composition.interpolated(seen, 1.0, "arithmetic")
    np.testing.assert_allclose(found, [0.6, 0.4])
    powers = np.array([0.5**0.75 * 0.9**0.25, 0.5**0.75 * 0.1**0.25])
    found = composition.interpolated(seen, 1.0, "geometric")
    np.testing.assert_allclose(found, powers / powers.sum())
    with pytest.raises(ValueError, match="`time`: got 4, expected a time between"):
        composition.interpolated(seen, 4.0, "arithmetic")


def test_clusters_that_grow_have_geometric_shares() -> None:
    """Labels at constant rates: predicted cells, weighted by their masses, have exact shares."""
    x = torch.cat([torch.zeros(50, 1), torch.full((50, 1), 9.0)])
    labels = ["a"] * 50 + ["b"] * 50
    before = Snapshot(x, 0.0, labels=labels)
    after = Snapshot(x, 2.0, torch.tensor([4.0] * 50 + [1.0] * 50), labels)
    course = TimeCourse((before, after))
    middle = Snapshot(x, 1.0, torch.tensor([2.0] * 50 + [1.0] * 50))
    found = composition.predicted(course, middle, ["a", "b"])
    expected = composition.interpolated(composition.observed(course, ["a", "b"]), 1.0, "geometric")
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6)
