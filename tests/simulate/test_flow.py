"""Gradients through simulation: closed forms, and each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cellflow.dynamics import Dynamics
from cellflow.networks import MLPConfig, Units
from cellflow.simulate import Limits, flow, simulate

F64 = torch.float64
TIGHT = Limits(rtol=1e-9, atol=1e-9)
WAYS = {
    "rk4": {"solver": "rk4", "max_step": 0.02},
    "adjoint": {"solver": "dopri5", "limits": TIGHT},
}


class Linear(nn.Module):
    """Field x A, at the rate t."""

    def __init__(self) -> None:
        super().__init__()
        a = torch.tensor([[-0.3, 0.8], [-0.5, 0.2]], dtype=F64)
        self.matrix = nn.Parameter(a)
        self.frozen = nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return t * x @ self.matrix * self.frozen


def cells(n: int = 6, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("times", [(0.5, 1.0, 2.0), (2.0, 1.0, 0.5)], ids=["on", "back"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_a_linear_flow_are_those_of_the_matrix_exponential(way, times) -> None:
    """Of a sum over two times, in the start and in the matrix: the integral of t is t² / 2."""
    field, x = Linear(), cells().requires_grad_()
    out = flow(Dynamics(field), x, times, **WAYS[way])
    weight = cells().flip(0)

    def loss(states: torch.Tensor) -> torch.Tensor:
        return (states[1] * weight).sum() + states[2].square().sum()

    rates = [(t**2 - times[0] ** 2) / 2 for t in times]
    exact = torch.stack([x @ torch.linalg.matrix_exp(r * field.matrix) for r in rates])
    assert_close(out.x, exact, rtol=1e-6, atol=1e-6)
    inputs = (x, field.matrix)
    found = torch.autograd.grad(loss(out.x), inputs)
    expected = torch.autograd.grad(loss(exact), inputs)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_network_agree_and_growth_has_some() -> None:
    units = Units((0.0, 0.0))
    net = MLPConfig(width=8, depth=2).build(units, generator=0).double()
    growth = MLPConfig(width=8, depth=2).build(units, answer="growth", generator=1).double()
    x = cells().requires_grad_()
    found = []
    for how in WAYS.values():
        out = flow(Dynamics(net, growth=growth, breaks=(0.4,)), x, [0.0, 1.0], **how)
        loss = (out.final.square().sum(1) * out.mass[-1]).sum()
        wanted = (x, *net.parameters(), *growth.parameters())
        found.append([loss, *torch.autograd.grad(loss, wanted)])
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    plain = simulate(Dynamics(net, growth=growth), x, [0.0, 1.0], max_step=0.02)
    assert_close(out.final, plain.final, rtol=1e-6, atol=1e-6)
    assert_close(out.log_mass, plain.log_mass, rtol=1e-6, atol=1e-6)


def test_noise_has_no_gradients() -> None:
    with pytest.raises(ValueError, match="`solver`: got 'sra1', expected a solver that draws no"):
        flow(Dynamics(Linear()), cells(), [0.0, 1.0], solver="sra1")


def test_adjoint_refuses_fields_whose_parameters_it_cannot_see() -> None:
    net = Linear()
    with pytest.raises(TypeError, match="`dynamics`: got function, expected modules"):
        flow(Dynamics(lambda t, x: net(t, x)), cells(), [0.0, 1.0], **WAYS["adjoint"])
