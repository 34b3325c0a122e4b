"""The default network: its inputs and units, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from cellflow import OTCFM, TimeCourse
from cellflow.batches import Batching
from cellflow.nets import MLP, MLPConfig, Units

F64 = torch.float64
UNITS = Units(centre=(1.0, -2.0), scale=3.0, origin=2.0, span=8.0)


def network(**config) -> MLP:
    return MLP(UNITS, MLPConfig(width=7, depth=1, **config), generator=1).to(F64)


def cells(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("features", [0, 1, 3])
def test_forward_is_the_formula(features: int) -> None:
    """Cells in units of the data, time in mean intervals, sines and cosines of its multiples."""
    net, x = network(activation="tanh", time_features=features), cells()
    t = torch.tensor([2.0, 3.0, 4.0, 6.0, 9.0, 10.0], dtype=F64)
    time = (t[:, None] - 2.0) / 8.0
    waves = [f(math.pi * k * time) for f in (torch.sin, torch.cos) for k in range(1, features + 1)]
    seen = torch.cat([(x - torch.tensor([1.0, -2.0], dtype=F64)) / 3.0, time, *waves], 1)
    first, last = net.layers[0], net.layers[-1]
    assert first.in_features == 3 + 2 * features
    hidden = torch.tanh(seen @ first.weight.T + first.bias)
    assert_close(net(t, x), 3.0 / 8.0 * (hidden @ last.weight.T + last.bias))


def test_skip_adds_a_multiple_of_the_state_that_time_decides() -> None:
    """Closed at first, so that the answer is that without it; then a factor of time alone."""
    plain, net, x = network(), network(skip=True), cells()
    t = torch.full((6,), 5.0, dtype=F64)
    assert_close(net(t, x), plain(t, x), rtol=0, atol=0)
    with torch.no_grad():
        net.gate[-1].weight.fill_(0.1)
        net.gate[-1].bias.fill_(2.0)
    added = (net(t, x) - plain(t, x)) / (x - torch.tensor([1.0, -2.0], dtype=F64)) * 8.0
    assert_close(added, added[:1, :1].expand(6, 2))
    later = net(t + 1, x) - plain(t + 1, x)
    assert not torch.allclose(later, net(t, x) - plain(t, x))


def test_growth_has_no_skip() -> None:
    net = MLP(UNITS, MLPConfig(skip=True), answer="growth", generator=1).to(F64)
    assert net.gate is None
    assert net(torch.tensor(3.0, dtype=F64), cells()).shape == (6,)


def test_one_time_is_that_time_for_every_cell() -> None:
    net, x = network(time_features=2), cells()
    t = torch.tensor(4.5, dtype=F64)
    assert_close(net(t, x), net(t.expand(6), x))
    assert not torch.equal(net(t, x), net(t + 1, x))


def test_units_are_those_of_the_course() -> None:
    """Cells at (0, 0), (2, 4), (4, 8): mean (2, 4), mean squares 8 / 3 and 32 / 3."""
    xs = [torch.tensor([[2.0 * k, 4.0 * k]], dtype=F64) for k in range(3)]
    units = Units.of(TimeCourse.from_arrays(xs, [5.0, 6.0, 9.0]))
    assert units.centre == pytest.approx((2.0, 4.0))
    assert units.scale == pytest.approx((20 / 3) ** 0.5)
    assert (units.origin, units.span) == (5.0, 2.0)
    assert units.speed == pytest.approx((20 / 3) ** 0.5 * 2 / 4)


def test_ten_times_the_data_is_ten_times_the_velocity() -> None:
    """Without noise of fixed size nothing in training knows the data's unit."""
    g = torch.Generator().manual_seed(0)
    xs = [k + torch.randn(60, 2, generator=g, dtype=F64) for k in range(3)]
    method = OTCFM(0.0, net=MLPConfig(16, 2), batching=Batching(32, 32))
    small, large = (
        method.fit(TimeCourse.from_arrays([f * x for x in xs]), steps=30, progress=False)
        for f in (1.0, 10.0)
    )
    assert_close(large.velocity(0.5, 10 * cells()), 10 * small.velocity(0.5, cells()))
