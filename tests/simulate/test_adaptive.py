"""Laws of the adaptive pair, against closed forms and independent integrators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45

from cellflow.dynamics import Dynamics
from cellflow.simulate import SOLVERS, IntegrationError, Limits, simulate
from clouds import normal
from simulate.test_simulate import LINEAR, LOGISTIC, MATRIX, logistic

TIMES = torch.linspace(0.2, 2.2, 101, dtype=torch.float64)


def start(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_weights_are_those_of_scipy() -> None:
    pair = SOLVERS["dopri5"].pair
    for ours, theirs in zip(pair.a, [*RK45.A, RK45.B], strict=True):
        np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-15)
    np.testing.assert_allclose(pair.c, [*RK45.C, 1.0], rtol=1e-15)
    np.testing.assert_allclose(pair.error, -RK45.E, rtol=1e-13)
    np.testing.assert_allclose(pair.quartic, RK45.P[:, 3], rtol=1e-14)


def test_error_falls_with_the_fifth_power_of_evaluations_at_nodes_and_between() -> None:
    x0, spans = normal(6, 3), (TIMES - TIMES[0])[:, None, None]
    exact = x0 @ torch.linalg.matrix_exp(spans * MATRIX).mT
    found = []
    for tolerance in (1e-6, 1e-11):
        limits = Limits(rtol=tolerance, atol=tolerance)
        path = simulate(LINEAR, x0, TIMES, solver="dopri5", limits=limits)
        error = (path.x - exact).abs().amax((1, 2))
        found.append((path.n_evaluations, float(error[-1]), float(error.max())))
    (few, *coarse), (many, *fine) = found
    orders = [math.log(a / b) / math.log(many / few) for a, b in zip(coarse, fine, strict=True)]
    assert orders == pytest.approx([5, 5], abs=0.5)
    assert fine[1] < 20 * fine[0]


@pytest.mark.parametrize("peer", ["torchdiffeq", "torchdyn"])
def test_adaptive_solver_agrees_with_other_integrators_between_nodes(peer: str) -> None:
    if peer == "torchdiffeq":
        module = pytest.importorskip("torchdiffeq")
        expected = module.odeint(logistic, start(), TIMES, rtol=1e-11, atol=1e-11)
    else:  # which keeps constants in float32, and so errs by 1e-9
        module = pytest.importorskip("torchdyn.numerics")
        field = lambda t, x, args=None: logistic(t, x)  # noqa: E731
        _, expected = module.odeint(field, start(), TIMES, solver="dopri5", rtol=1e-11, atol=1e-11)
    limits = Limits(rtol=1e-10, atol=1e-10)
    path = simulate(LOGISTIC, start(), TIMES, solver="dopri5", limits=limits)
    torch.testing.assert_close(path.x, expected, rtol=0, atol=1e-8)


def test_no_more_evaluations_than_scipys_pair_at_the_same_tolerance() -> None:
    for tolerance in (1e-4, 1e-8):
        theirs = RK45(
            lambda t, x: logistic(torch.tensor(t), torch.from_numpy(x)).numpy(),
            0.2,
            start().flatten().numpy(),
            2.2,
            rtol=tolerance,
            atol=tolerance,
        )
        while theirs.status == "running":
            theirs.step()
        limits = Limits(rtol=tolerance, atol=tolerance)
        ours = simulate(LOGISTIC, start(), TIMES, solver="dopri5", limits=limits)
        assert ours.n_evaluations <= 1.1 * theirs.nfev


def test_jump_of_the_field_in_time_is_stepped_over() -> None:
    field = Dynamics(velocity=lambda t, x: torch.where(t < 0.37, 1.0, -2.0) * torch.ones_like(x))
    path = simulate(field, normal(3, 2), [0, 0.2, 1], solver="dopri5")
    torch.testing.assert_close(path.final - path.x[0], torch.full((3, 2), -0.89).double(),
                               atol=1e-3, rtol=0)  # fmt: skip


@pytest.mark.parametrize("size", [1e30, 3e38])
def test_values_that_overflow_raise(size: float) -> None:
    field = Dynamics(velocity=lambda t, x: size * x)
    with pytest.raises(IntegrationError, match="stopped at time (0|1e-15):"):
        simulate(field, torch.ones(2, 1), [0, 1], solver="dopri5")


def test_field_at_rest_needs_few_steps() -> None:
    path = simulate(Dynamics(velocity=lambda t, x: 0 * x), normal(3, 2), [0, 1], solver="dopri5")
    assert torch.equal(path.final, path.x[0])
    assert path.n_evaluations <= 32


def test_steps_do_not_shrink_at_the_end() -> None:
    asked = []
    field = Dynamics(velocity=lambda t, x: asked.append(float(t)) or LINEAR.velocity(t, x))
    simulate(field, normal(6, 3), [0, 2], solver="dopri5")
    nodes = torch.tensor(asked[2:]).view(-1, 6)[:, -1].unique()
    assert float(nodes.diff()[-1]) > 0.5 * float(nodes.diff()[:-1].max())


def test_steps_do_not_depend_on_the_unit() -> None:
    """Of a linear field, where the absolute tolerance is in the same unit."""
    found = []
    for unit in (1.0, 1024.0):
        limits = Limits(rtol=1e-6, atol=1e-6 * unit)
        found.append(simulate(LINEAR, unit * normal(6, 3), TIMES, solver="dopri5", limits=limits))
    assert found[0].n_evaluations == found[1].n_evaluations
    torch.testing.assert_close(found[1].x, 1024 * found[0].x, rtol=1e-12, atol=1e-12)
