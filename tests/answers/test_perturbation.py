"""Effects of moving cells on their fates, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from cellflow.answers import effect_on_fates
from cellflow.answers.perturbation import most_alike, p_value
from cellflow.fits import Ensemble
from cellflow.timecourse import Snapshot
from known_fits import SIGMA, SPAN, fit

BROWNIAN = fit(lambda t, x: torch.zeros_like(x))
STILL = fit(lambda t, x: torch.zeros_like(x), sigma=0.0)


def cells(*places: float, mass=None) -> Snapshot:
    return Snapshot(torch.tensor(places, dtype=torch.float64)[:, None], 0.0, mass)


def right_of(found) -> tuple[torch.Tensor, torch.Tensor]:
    column = found.groups.index("right")
    return found.effect[:, column], found.standard_error[:, column]


def test_shifts_in_an_ornstein_uhlenbeck_process() -> None:
    """Where a cell ends is a normal law around x exp(-θt): so is the effect of a shift, by mass."""
    ou, shifts = fit(lambda t, x: -0.7 * x), (0.5, -1.0, 0.05)
    x, mass = np.linspace(-1, 1, 5), np.array([1.0, 2.0, 5.0, 2.0, 1.0])
    start = cells(*x, mass=mass)
    found = effect_on_fates(
        ou, start, (start.x + s for s in shifts), ends=ou.course.snapshots[1], n_futures=3000
    )
    deviation = SIGMA * math.sqrt((1 - math.exp(-1.4 * SPAN)) / 1.4)
    law = stats.norm(scale=deviation / math.exp(-0.7 * SPAN))
    truth = [np.average(law.cdf(x + s) - law.cdf(x), weights=mass) for s in shifts]
    # Only futures that the shift takes over the border differ: a share p of 15,000.
    for effect, expected in zip(right_of(found)[0].tolist(), truth, strict=True):
        assert abs(effect - expected) < 5 * math.sqrt(abs(expected) / 10_000) + 1e-3
    torch.testing.assert_close(found.effect.sum(1), torch.zeros(3, dtype=torch.float64))
    assert found.member_std is None


def test_cells_that_stay_have_no_effect_at_all() -> None:
    """To the last bit, also beside others that move."""
    start = cells(*np.linspace(-1, 1, 40))
    ends, part = BROWNIAN.course.snapshots[1], start.x.clone()
    part[:3] += 0.5
    found = effect_on_fates(BROWNIAN, start, [start.x.clone(), part], ends=ends)
    assert found.effect[0].tolist() == found.standard_error[0].tolist() == [0.0, 0.0]
    alone = effect_on_fates(BROWNIAN, cells(*start.x[:3, 0]), [part[:3]], ends=ends)
    torch.testing.assert_close(found.effect[1], alone.effect[0] * 3 / 40)


def test_errors_cover_the_effect_in_the_population() -> None:
    """Of 150 samples of 40 cells from N(0, 1), 95 % lie within 1.96 errors of the truth."""
    rng, ends, inside = np.random.default_rng(0), BROWNIAN.course.snapshots[1], []
    truth = stats.norm(scale=math.sqrt(1 + SIGMA**2 * SPAN)).cdf(0.6) - 0.5
    for seed in range(150):
        start = cells(*rng.normal(size=40))
        found = effect_on_fates(BROWNIAN, start, [start.x + 0.6], ends=ends, generator=seed)
        effect, error = right_of(found)
        inside.append(abs(float(effect) - truth) < 1.96 * float(error))
    assert 0.89 < np.mean(inside) < 0.99


def test_errors_are_those_of_a_weighted_mean() -> None:
    """Of four cells that do not move by themselves, two are put to the right: 5 of 8 in mass."""
    start, ends = cells(-1, -2, -1, -2, mass=[1.0, 4.0, 1.0, 2.0]), STILL.course.snapshots[1]
    moved = start.x + torch.tensor([0.0, 4, 4, 0], dtype=torch.float64)[:, None]
    effect, error = right_of(effect_on_fates(STILL, start, [moved], ends=ends))
    assert float(effect) == pytest.approx(5 / 8)
    w, off = np.array([1, 4, 1, 2]) / 8, np.array([0, 1, 1, 0]) - 5 / 8
    assert float(error) == pytest.approx(math.sqrt((w**2 * off**2).sum() * 4 / 3))
    one = effect_on_fates(STILL, cells(-1), [start.x[:1] + 4], ends=ends)
    assert one.standard_error.isnan().all()


def test_members_that_disagree_say_so() -> None:
    """To one member the shift is all, to the other, which drives all to the left, nothing."""
    left = fit(lambda t, x: torch.full_like(x, -3.0), sigma=0.0)
    start = cells(-1, -1, -1)
    both = Ensemble((left, STILL), (0, 1))
    found = effect_on_fates(both, start, [start.x + 2], ends=STILL.course.snapshots[1])
    assert float(right_of(found)[0]) == pytest.approx(0.5)
    torch.testing.assert_close(found.member_std, torch.full_like(found.effect, 0.5**0.5))


def test_bent_futures_go_where_they_are_let() -> None:
    """Against a wind of 1 a cell that is let go half of the way ends half as far to the right."""
    wind = fit(lambda t, x: torch.ones_like(x), sigma=0.0)
    reach, ends = SPAN, wind.course.snapshots[1]
    start = cells(-0.75 * reach, -0.25 * reach)
    found = effect_on_fates(
        wind, start, [start.x] * 3, ends=ends, bends=[lambda s: s, lambda s: s / 2, lambda s: 0 * s]
    )
    assert right_of(found)[0].tolist() == pytest.approx([0, -0.5, -1], abs=1e-6)


def test_who_is_most_alike() -> None:
    features = np.random.default_rng(0).normal(size=(50, 2)) * [1, 100]
    features[7] = features[3]
    scaled = features / features.std(0)
    order = np.argsort(cdist(scaled, scaled), axis=1, kind="stable")
    for k in (0, 3, 7):
        expected = [row for row in order[k] if row != k][:10]
        assert most_alike(torch.from_numpy(features), k, 10).tolist() == expected
    same = torch.ones(4, 2, dtype=torch.float64)
    assert most_alike(same, 1, 10).tolist() == [0, 2, 3]


def test_p_values_count_the_null() -> None:
    null = torch.tensor([[0.1, -0.4], [-0.3, 0.0], [0.2, 0.2]])
    assert p_value(torch.tensor([-0.2, 0.5]), null).tolist() == [3 / 4, 1 / 4]
    assert p_value(torch.zeros(2), null).tolist() == [1.0, 1.0]


def test_bad_input() -> None:
    start, ends = cells(-1, 1), STILL.course.snapshots[1]
    with pytest.raises(ValueError, match=r"`moved`: got shape \(1, 1\), expected \(2, 1\)"):
        effect_on_fates(STILL, start, [start.x[:1]], ends=ends)
    with pytest.raises(ValueError, match="`moved`: got no change"):
        effect_on_fates(STILL, start, [], ends=ends)
    with pytest.raises(ValueError, match="`ends`: got cells without labels"):
        effect_on_fates(STILL, start, [start.x], ends=replace(ends, labels=None))
