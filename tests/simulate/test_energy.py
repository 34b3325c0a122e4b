"""Path energy against closed forms."""

from __future__ import annotations

import pytest
import torch

import cellflow as cf
from cellflow.simulate import path_energy
from cellflow.toys.exact import Gaussian
from closed_forms import gaussian_ot_map, gaussian_w2

F64 = torch.float64


@pytest.mark.parametrize("span", [1.0, 4.0])
def test_energy_of_optimal_transport_is_the_squared_distance(span: float) -> None:
    """Cells in straight lines to where the Monge map takes them, in any unit of time."""
    laws = Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([2.0, 1.0], [[0.4, 0], [0, 2]])
    matrix, offset = gaussian_ot_map(*laws)
    eye = torch.eye(2, dtype=F64)

    def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        s = t / span
        start = torch.linalg.solve(((1 - s) * eye + s * matrix).T, x - s * offset, left=False)
        return (start @ matrix.T + offset - start) / span

    x = laws[0].sample(2000, generator=0)
    x = laws[0].mean + (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    x = x @ torch.linalg.cholesky(laws[0].cov).T  # the moments of the law
    found = path_energy(cf.Dynamics(velocity), x, t0=0.0, t1=span)
    assert found == pytest.approx(gaussian_w2(*laws) ** 2, rel=2e-3)  # of n - 1 cells, not n


def test_energy_of_a_turn_is_the_squared_length_of_its_arc() -> None:
    turn = cf.Dynamics(lambda t, x: torch.stack([-x[:, 1], x[:, 0]], 1))
    x = torch.tensor([[2.0, 0.0]], dtype=F64)
    assert path_energy(turn, x, t0=1.0, t1=2.5) == pytest.approx((2 * 1.5) ** 2, rel=1e-4)
