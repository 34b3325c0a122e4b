"""The default network: its inputs and units, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from cellflow import OTCFM, TimeCourse
from cellflow.batches import Batching
from cellflow.networks import MLP, MLPConfig, Units
from cellflow.networks.fast import ACTIVATIONS, LARGE, product, written_out

F64 = torch.float64
UNITS = Units(centre=(1.0, -2.0), scale=3.0, origin=2.0, span=8.0)


def network(**config) -> MLP:
    return MLP(UNITS, MLPConfig(width=7, depth=1, **config), generator=1).to(F64)


def cells(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def test_forward_is_the_formula() -> None:
    """Cells in units of the data, time in mean intervals."""
    net, x = network(activation="tanh"), cells()
    t = torch.tensor([2.0, 3.0, 4.0, 6.0, 9.0, 10.0], dtype=F64)
    time = (t[:, None] - 2.0) / 8.0
    seen = torch.cat([(x - torch.tensor([1.0, -2.0], dtype=F64)) / 3.0, time], 1)
    first, last = net.layers[0], net.layers[-1]
    assert first.in_features == 3
    hidden = torch.tanh(seen @ first.weight.T + first.bias)
    assert_close(net(t, x), 3.0 / 8.0 * (hidden @ last.weight.T + last.bias))


def test_skip_adds_a_time_dependent_multiple_of_the_state() -> None:
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


def test_scalar_time_equals_that_time_for_every_cell() -> None:
    net, x = network(), cells()
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


def test_velocity_scales_with_the_data() -> None:
    """Without noise of fixed size nothing in training knows the data's unit."""
    g = torch.Generator().manual_seed(0)
    xs = [k + torch.randn(60, 2, generator=g, dtype=F64) for k in range(3)]
    method = OTCFM(0.0, net=MLPConfig(16, 2), batching=Batching(32, 32))
    small, large = (
        method.fit(TimeCourse.from_arrays([f * x for x in xs]), steps=30, progress=False)
        for f in (1.0, 10.0)
    )
    assert_close(large.velocity(0.5, 10 * cells()), 10 * small.velocity(0.5, cells()))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("skip", [False, True])
def test_gradients_written_out_equal_those_of_automatic_differentiation(activation, skip) -> None:
    config = MLPConfig(48, 3, activation, skip=skip)
    net = MLP(Units((0.5, -1.0, 0.0), 2.0, 0.0, 3.0), config).double()
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(60, 3, generator=g).double() for _ in range(2))
    t = torch.rand(60, generator=g).double()

    def gradients() -> list[torch.Tensor]:
        loss = (net(t, x) - y).square().mean()
        return torch.autograd.grad(loss, list(net.parameters()))

    plain = gradients()
    with written_out():
        out = net(t, x)
        assert type(out.grad_fn.next_functions[0][0]).__name__ == "ChainBackward" or skip
        for found, wanted in zip(gradients(), plain, strict=True):
            assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        with_input = torch.autograd.grad(net(t, x.requires_grad_()).sum(), x)[0]  # as ever
    assert_close(with_input, torch.autograd.grad(net(t, x).sum(), x)[0])


def test_large_products_do_not_depend_on_the_library() -> None:
    g = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*s, generator=g) for s in ((500, 70), (64, 70), (64,)))
    assert len(x) * w.numel() >= LARGE
    assert_close(product(x, w, b), x @ w.T + b, rtol=1e-4, atol=1e-4)
    assert_close(product(x, w), x @ w.T, rtol=1e-4, atol=1e-4)
    assert_close(product(x.double(), w.double()), x.double() @ w.double().T)
