"""Networks that know between which snapshots they are."""

from __future__ import annotations

import pytest
import torch

from cellflow import OTCFM
from cellflow.networks import MLPConfig, Units
from cellflow.timecourse import TimeCourse

UNITS = Units((0.0, 0.0), 2.0, 1.0, 1.5, knots=(1.0, 2.0, 5.0))


def test_field_may_jump_at_a_snapshot_and_nowhere_else() -> None:
    net = MLPConfig(intervals=True).build(UNITS).float()
    x = torch.zeros(1, 2)

    t = torch.tensor
    left, right = (net(t(2.0 + e, dtype=torch.float64), x) for e in (-1e-9, 1e-9))
    assert float((left - right).detach().norm()) > 1e-3
    left, right = (net(t(3.0 + e, dtype=torch.float64), x) for e in (-1e-9, 1e-9))
    assert float((left - right).detach().norm()) < 1e-6


def test_evaluator_agrees_with_the_network() -> None:
    net = MLPConfig(intervals=True, skip=True).build(UNITS).float()
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    for time in (0.5, 1.0, 1.7, 2.0, 4.0, 5.0, 6.0):
        t = torch.tensor(time, dtype=torch.float64)
        torch.testing.assert_close(net.evaluator(x)(t, x), net(t, x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(net(t.expand(7), x), net(t, x))


def test_corners_are_learned() -> None:
    """A cloud that goes back and forth: the velocity is that of the interval, up to its ends."""
    generator = torch.Generator().manual_seed(0)
    cells = 0.1 * torch.randn(200, 2, generator=generator)
    shift = torch.tensor([1.0, 0.0])
    course = TimeCourse.from_arrays([cells + k % 2 * shift for k in range(5)])
    fit = OTCFM(0.01, net=MLPConfig(intervals=True)).fit(course, steps=600, progress=False)
    for k in range(4):
        sign = 1 if k % 2 == 0 else -1
        at = course.snapshots[k].x
        assert fit.velocity(k + 0.01, at)[:, 0].mean() == pytest.approx(sign, abs=0.1)


def test_intervals_of_a_field_without_time_are_refused() -> None:
    with pytest.raises(ValueError, match="`intervals`: got True"):
        MLPConfig(time=False, intervals=True)
