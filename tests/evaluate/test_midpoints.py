"""Unlearned interpolations against closed forms."""

from __future__ import annotations

import pytest
import torch

from cellflow.clock import CLOCKS, Clock
from cellflow.couplings import Exact, Reach
from cellflow.evaluate.scorer import Scorer, interpolated
from cellflow.timecourse import TimeCourse


def course(shares: tuple[int, int], gap: float) -> TimeCourse:
    """Two clusters of 200 cells in all, half of them here at first and `shares` at the end."""
    generator = torch.Generator().manual_seed(0)
    xs = []
    for here, there in ((100, 100), (1, 1), shares):
        x = torch.randn(here + there, 2, generator=generator, dtype=torch.float64)
        x[here:, 0] += gap
        xs.append(x)
    return TimeCourse.from_arrays(xs, times=[0, 1, 4])


def test_shares_out_of_reach_are_geometric_means() -> None:
    """A quarter of the way, in place: the powers ¾ and ¼ of the shares at both ends."""
    x = interpolated(Reach(5.0), course((160, 40), 50.0), 1, seed=0)
    weights = [0.5**0.75 * share**0.25 for share in (0.8, 0.2)]
    found = float((x[:, 0] < 25).double().mean())
    assert len(x) == 200
    assert found == pytest.approx(weights[0] / sum(weights), abs=0.05)
    assert bool(((x[:, 0] < 10) | (x[:, 0] > 40)).all())


def test_exact_plans_move_what_changes() -> None:
    """Thirty cells cross the gap, and are a quarter of the way on."""
    x = interpolated(Exact(), course((130, 70), 400.0), 1, seed=0)
    crossing = (x[:, 0] > 200) & (x[:, 0] < 350)
    assert int(crossing.sum()) == 30


def test_a_clock_says_how_far_on_a_day_is() -> None:
    """Cells shift by 1 in the first three days and by 27 in the next: a third is not a third."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(150, 2, generator=generator, dtype=torch.float64) * 1e-3
    xs = [still, still + 1, still + 9, still + 28]
    several = TimeCourse.from_arrays(xs, times=[0, 3, 4, 6])
    clock = Clock.by_distance(several.without(2), weight=0.5)
    before, here, end = (float(clock(t)) for t in (3, 4, 6))
    share = (here - before) / (end - before)
    assert abs(share - 1 / 3) > 0.05
    for name, expected in (("physical", 1 / 3), ("tempered", share)):
        x = interpolated(Exact(), several, 2, seed=0, clock=name)
        torch.testing.assert_close(x.mean(0), still.mean(0) + 1 + 27 * expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("name", "kind"), [("uot_midpoint", "physical"), ("uot_clock", "tempered")]
)
def test_yardsticks_keep_their_clocks(name: str, kind: str) -> None:
    """Few cells at one place, so that W1 is how far off their place is."""
    still = torch.zeros(20, 2, dtype=torch.float64)
    several = TimeCourse.from_arrays([still, still + 1, still + 9, still + 28], times=[0, 3, 4, 6])
    clock = Clock.by_distance(several.without(2), weight=CLOCKS[kind])
    before, here, end = (float(clock(t)) for t in (3, 4, 6))
    place = 1 + 27 * (here - before) / (end - before)
    score = Scorer(4.0, several.snapshots[2], ("w1",))
    (row,) = score.yardstick(name, several, 2, seed=0)
    assert row.value == pytest.approx(abs(place - 9) * 2**0.5, rel=1e-6)
