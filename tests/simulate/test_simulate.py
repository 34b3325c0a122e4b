"""Laws of the solvers, against closed forms and independent integrators."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import cases
from cellflow.dynamics import Dynamics
from cellflow.simulate import SOLVERS, Limits, simulate, steps
from clouds import normal

EXACT = {"rtol": 1e-9, "atol": 1e-9}
TIGHT = {"limits": Limits(**EXACT)}
MATRIX = torch.tensor([[-0.5, 2.0, 0.1], [-2.0, -0.3, 0.0], [0.2, 0.0, 0.4]], dtype=torch.float64)


def matmul(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.to(x).T


def logistic(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (1 + torch.cos(3 * t)) * x * (1 - x)


def logistic_flow(x0: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    clock = times + torch.sin(3 * times) / 3 - times[0] - torch.sin(3 * times[0]) / 3
    odds = x0 / (1 - x0) * torch.exp(clock)[:, None, None]
    return odds / (1 + odds)


LINEAR = Dynamics(velocity=matmul)
LOGISTIC = Dynamics(velocity=logistic)  # nonlinear and dependent on time


@pytest.fixture(params=list(cases.SOLVERS))
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[s for s in cases.SOLVERS if SOLVERS[s].step is not None])
def fixed(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[s for s in cases.SOLVERS if SOLVERS[s].step is None])
def adaptive(request: pytest.FixtureRequest) -> str:
    return request.param


def test_solver_is_named_like_its_file() -> None:
    files = {file.stem for file in Path(steps.__file__).parent.glob("[a-z]*.py")}
    assert files == set(SOLVERS)


# --- accuracy --------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True], ids=["at the end", "at 50 times"])
def test_solver_has_its_declared_order_on_a_nonlinear_time_dependent_field(
    fixed: str, dense: bool
) -> None:
    x0 = torch.rand(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.linspace(0.2, 2.2, 50 if dense else 2, dtype=torch.float64)
    exact = logistic_flow(x0, times)
    errors = [
        (simulate(LOGISTIC, x0, times, solver=fixed, max_step=2 / k).x - exact).abs().max()
        for k in (40, 80, 160)
    ]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates == pytest.approx([cases.SOLVERS[fixed]] * 2, abs=0.2)


def test_linear_field_is_solved_as_by_the_matrix_exponential(fixed: str) -> None:
    x0, end = normal(6, 3), 1.5
    exact = x0 @ torch.linalg.matrix_exp(MATRIX * end).T
    errors = [
        (simulate(LINEAR, x0, [0, end], solver=fixed, max_step=end / k).final - exact).norm()
        for k in (64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(cases.SOLVERS[fixed], abs=0.15)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-8, 1e-11])
def test_adaptive_error_follows_the_tolerance(adaptive: str, tolerance: float) -> None:
    x0 = normal(6, 3)
    times = torch.linspace(0, 2, 101, dtype=torch.float64)
    exact = torch.stack([x0 @ torch.linalg.matrix_exp(MATRIX * float(t)).T for t in times])
    path = simulate(
        LINEAR, x0, times, solver=adaptive, limits=Limits(rtol=tolerance, atol=tolerance)
    )
    error = (path.x - exact).abs().amax((1, 2))
    # The tolerance is on one step: tens of steps add up, and between them the interpolation is
    # one order below the solver.
    assert error[-1] < 20 * tolerance
    assert error.max() < 200 * tolerance


@pytest.mark.parametrize("oracle", ["scipy", "torchdiffeq"])
def test_solver_agrees_with_independent_integrators(solver: str, oracle: str) -> None:
    x0 = torch.rand(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    times = torch.tensor([0.0, 0.3, 1.7, 2.0], dtype=torch.float64)
    if oracle == "scipy":
        answer = solve_ivp(
            lambda t, x: logistic(torch.tensor(t), torch.from_numpy(x)).numpy(),
            (0, 2),
            x0.flatten().numpy(),
            method="DOP853",
            t_eval=times.numpy(),
            rtol=1e-11,
            atol=1e-11,
        )
        expected = torch.from_numpy(answer.y.T.copy()).reshape(4, 4, 2)
    else:
        torchdiffeq = pytest.importorskip("torchdiffeq")
        expected = torchdiffeq.odeint(logistic, x0, times, rtol=1e-11, atol=1e-11)
    step = {1: 1e-3, 2: 1e-2, 4: 0.05, 5: None}[cases.SOLVERS[solver]]
    path = simulate(LOGISTIC, x0, times, solver=solver, max_step=step, **TIGHT)
    tolerance = {1: 2e-3, 2: 2e-4, 4: 1e-5, 5: 1e-6}[cases.SOLVERS[solver]]
    torch.testing.assert_close(path.x, expected, rtol=0, atol=tolerance)


def test_affine_flow_is_exact_at_many_times() -> None:
    # 400 outputs out of 32 steps are within the bound of the quintic through three nodes.
    times = torch.linspace(1, 4, 400, dtype=torch.float64)
    x0 = 1 + normal(10, 2).clamp(-2, 2)
    dynamics = Dynamics(velocity=lambda t, x: -x / t + 2)  # (t x)' = 2 t
    exact = (x0 + times[:, None, None] ** 2 - 1) / times[:, None, None]
    path = simulate(dynamics, x0, times)
    nodes = simulate(dynamics, x0, times[[0, -1]])
    sixth = 720 * 2  # of (x0 - 1) / t at t = 1
    bound = sixth / 720 * (3 / 32) ** 6 * 0.15  # largest theta^2 (1 - theta)^2 (1 + theta)^2
    assert (path.x - exact).abs().max() < 4 * bound + 10 * (nodes.final - exact[-1]).abs().max()
    assert path.n_evaluations == 4 * 32 + 1


def test_cubic_motion_is_exact_between_nodes_whatever_their_number() -> None:
    times = torch.linspace(0, 1, 23, dtype=torch.float64)
    dynamics = Dynamics(velocity=lambda t, x: torch.zeros_like(x) + 3 * t**2)
    for step in (1.0, 0.5, 0.34):
        path = simulate(dynamics, torch.zeros(1, 1, dtype=torch.float64), times, max_step=step)
        torch.testing.assert_close(path.x[:, 0, 0], times**3)


# --- invariances -----------------------------------------------------------------------------


def test_simulation_backward_inverts_simulation_forward(solver: str) -> None:
    x0, times = normal(8, 3), [1.0, 1.7, 3.0]
    options = {"solver": solver, "max_step": 1e-3, **TIGHT}
    forward = simulate(LINEAR, x0, times, **options)
    back = simulate(LINEAR, forward.final, times[::-1], **options)
    tolerance = {1: 3e-2, 2: 1e-4, 4: 1e-9, 5: 1e-6}[cases.SOLVERS[solver]]
    torch.testing.assert_close(back.x.flip(0), forward.x, rtol=tolerance, atol=tolerance)
    assert back.times.tolist() == times[::-1]


def test_states_do_not_depend_on_the_output_grid(solver: str) -> None:
    x0 = normal(8, 3)
    times = torch.linspace(0, 2, 401, dtype=torch.float64)
    few = simulate(LINEAR, x0, times[[0, 37, 200, 400]], solver=solver)
    many = simulate(LINEAR, x0, times, solver=solver)
    torch.testing.assert_close(few.x, many.x[[0, 37, 200, 400]], rtol=1e-12, atol=1e-12)
    assert torch.equal(few.final, simulate(LINEAR, x0, [0, 2], solver=solver).final)


def test_output_times_cost_few_evaluations(solver: str) -> None:
    x0 = normal(100, 3)
    ends = simulate(LINEAR, x0, [0, 2], solver=solver)
    many = simulate(LINEAR, x0, np.linspace(0, 2, 400), solver=solver)
    assert many.n_evaluations <= 1.4 * ends.n_evaluations + 2
    assert many.n_evaluations < 200


def test_evaluations_are_counted(solver: str) -> None:
    calls = []
    dynamics = Dynamics(velocity=lambda t, x: calls.append(t) or -x)
    path = simulate(
        dynamics, normal(7, 2), [0, 0.3, 1], solver=solver, limits=Limits(memory=20_000)
    )
    assert path.n_evaluations == len(calls)
    assert all(t.shape == () and t.dtype == torch.float64 for t in calls)
    assert all(0 <= t <= 1 for t in calls)


def test_field_is_evaluated_inside_the_span_only(solver: str) -> None:
    # Far from the origin and slow, the first step that an adaptive solver tries is far too long.
    dynamics = Dynamics(
        velocity=lambda t, x: torch.where((t < 0) | (t > 1), math.nan, torch.ones_like(x))
    )
    path = simulate(dynamics, 1e4 + normal(3, 2), [0, 1], solver=solver)
    torch.testing.assert_close(path.final, path.x[0] + 1)


def test_permuted_cells_have_permuted_trajectories(solver: str) -> None:
    x0 = normal(16, 3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    times = [0, 0.4, 1]
    path, other = (simulate(LINEAR, x, times, solver=solver) for x in (x0, x0[order]))
    torch.testing.assert_close(other.x, path.x[:, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory", [1, 50_000, 100_000])
def test_states_do_not_depend_on_chunks(solver: str, memory: int) -> None:
    x0, times = normal(17, 3), [0, 0.4, 1]
    growth = Dynamics(velocity=matmul, growth=lambda t, x: t * x[:, 0])
    sizes = []
    watched = Dynamics(
        velocity=lambda t, x: sizes.append(len(x)) or matmul(t, x), growth=growth.growth
    )
    whole = simulate(growth, x0, times, solver=solver, **TIGHT)
    parts = simulate(watched, x0, times, solver=solver, limits=Limits(memory=memory, **EXACT))
    tolerance = 1e-12 if SOLVERS[solver].step else 1e-6
    torch.testing.assert_close(parts.x, whole.x, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(parts.log_mass, whole.log_mass, rtol=tolerance, atol=tolerance)
    assert max(sizes) < 17
    assert max(sizes) * 2048 * 8 <= max(memory, 2048 * 8)


def test_states_do_not_depend_on_the_unit_of_time(solver: str) -> None:
    x0 = normal(5, 3)
    hours = Dynamics(velocity=lambda t, x: matmul(t, x) / 24)
    in_days = simulate(LINEAR, x0, [0, 0.5, 2], solver=solver)
    in_hours = simulate(hours, x0, [0, 12, 48], solver=solver)
    torch.testing.assert_close(in_hours.x, in_days.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "times",
    [
        np.linspace(1000, 1001, 50),
        100 + 1e-3 * np.arange(400),
        [1e6, 1e6 + 1e-3, 1e6 + 1],
        [0, 1e-7, 1],
    ],
    ids=["day 1000", "fine grid at day 100", "day 1e6", "two near times"],
)
def test_large_and_near_times_are_kept_apart_in_float32(solver: str, times: np.ndarray) -> None:
    x0 = torch.rand(5, 2, generator=torch.Generator().manual_seed(4))
    times = torch.as_tensor(np.asarray(times))
    path = simulate(Dynamics(velocity=lambda t, x: -x), x0, times, solver=solver, max_step=0.02)
    exact = x0 * torch.exp(times[0] - times)[:, None, None]
    tolerance = 2e-2 if cases.SOLVERS[solver] == 1 else 2e-4
    torch.testing.assert_close(path.x, exact.float(), rtol=tolerance, atol=1e-6)
    assert path.x.dtype == torch.float32
    torch.testing.assert_close(path.times, times.double(), rtol=0, atol=0)


def test_states_at_uneven_times_equal_the_closed_form(solver: str) -> None:
    times = torch.tensor([0.1, 0.1001, 0.5, 0.5 + 1e-12, 1.9, 2.0], dtype=torch.float64)
    x0 = normal(3, 2)
    shift = Dynamics(velocity=lambda t, x: torch.full_like(x, 2.0))
    path = simulate(shift, x0, times, solver=solver)
    torch.testing.assert_close(path.x, x0 + 2 * (times - 0.1)[:, None, None])


def test_mass_grows_as_the_integral_along_the_path(solver: str) -> None:
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    x0 = normal(6, 1)
    dynamics = Dynamics(velocity=lambda t, x: x, growth=lambda t, x: t + x[:, 0])
    path = simulate(dynamics, x0, times, solver=solver, max_step=2e-3, **TIGHT)
    log_mass = times[:, None] ** 2 / 2 + x0[:, 0] * (times.exp() - 1)[:, None]
    tolerance = 1e-2 if cases.SOLVERS[solver] == 1 else 1e-5
    torch.testing.assert_close(path.log_mass, log_mass, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(path.mass, path.log_mass.exp())
    assert path.mass.shape == (11, 6)
    torch.testing.assert_close(
        path.x, x0 * times.exp()[:, None, None], rtol=tolerance, atol=tolerance
    )
