"""Average velocities: the identity that is regressed, where the field is known."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from cellflow.dynamics import Dynamics
from cellflow.networks import MLPConfig, Network, Units
from cellflow.objectives import average_velocity_matching
from cellflow.paths import PathPoint
from cellflow.simulate import simulate

F64 = torch.float64
MATRIX = torch.tensor([[0.3, -1.0], [0.8, -0.2]], dtype=F64)
UNITS = Units((0.0, 0.0), knots=(0.0, 1.0, 3.0), span=1.5)


class Linear(Network):
    """Average velocity of dx = M x dt: the integral of exp(M h) over h, by its power series."""

    def between(self, t: torch.Tensor, until: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        h = (until - t).reshape(-1, 1)
        term = total = x @ MATRIX.T
        for k in range(2, 30):
            term = term @ MATRIX.T * h / k
            total = total + term
        return total


def batch(n: int = 64) -> PathPoint:
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(n, 2, generator=g, dtype=F64), 3 * torch.rand(n, generator=g, dtype=F64)
    v = x @ MATRIX.T
    return PathPoint(t, x, v, torch.zeros_like(v), torch.zeros(n, 1, dtype=F64), v)


def test_average_velocity_times_the_span_is_the_way() -> None:
    x, t, until = batch().x, torch.tensor(0.5, dtype=F64), torch.tensor(2.0, dtype=F64)
    end = simulate(Dynamics(lambda t, x: x @ MATRIX.T), x, [0.5, 2.0], max_step=0.01).final
    assert_close((until - t) * Linear(UNITS).between(t, until, x), end - x, rtol=1e-8, atol=1e-8)


def test_the_average_velocity_of_a_known_flow_has_no_loss() -> None:
    """Its identity, by the derivative along the flow; any other average has a loss."""
    assert float(average_velocity_matching(Linear(UNITS), batch())["velocity"]) < 1e-24

    class Instant(Linear):
        def between(self, t: torch.Tensor, until: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return x @ MATRIX.T

    assert float(average_velocity_matching(Instant(UNITS), batch())["velocity"]) > 1e-2


def test_the_ends_are_even_up_to_the_next_snapshot_and_half_are_none() -> None:
    asked = []

    class Listening(Linear):
        def between(self, t: torch.Tensor, until: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            asked.append((t, until))
            return super().between(t, until, x)

    average_velocity_matching(Listening(UNITS), batch(1000))
    t, until = asked[-1]
    share = (until - t) / (torch.where(t < 1, 1.0, 3.0) - t)
    assert float((share == 0).double().mean()) == 0.5
    assert_close(share.sort().values[500:], torch.linspace(0, 1, 500, dtype=F64), atol=4e-3, rtol=0)


def test_gradients_reach_the_answer_and_not_what_it_is_compared_with() -> None:
    """That of the loss is that of a regression on fixed numbers."""
    net, b = MLPConfig(8, 2, average=True).build(UNITS).double(), batch()
    average_velocity_matching(net, b)["velocity"].backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    share = (torch.arange(1, 65, dtype=F64) * 0.6180339887498949) % 1
    until = b.t + (2 * share - 1).clamp(min=0) * (torch.where(b.t < 1, 1.0, 3.0) - b.t)
    h = 1e-6
    rate = net.between(b.t + h, until, b.x + h * b.velocity)
    rate = (rate - net.between(b.t - h, until, b.x - h * b.velocity)) / (2 * h)
    wanted = (b.velocity + (until - b.t)[:, None] * rate).detach()
    torch.nn.functional.mse_loss(net.between(b.t, until, b.x), wanted).backward()
    assert_close(found, [p.grad for p in net.parameters()], rtol=1e-6, atol=1e-8)
