"""What the solvers refuse, how they fail, and what they return."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import cases
from cellflow.dynamics import Dynamics
from cellflow.simulate import SOLVERS, IntegrationError, Limits, Trajectory, simulate

DECAY = Dynamics(velocity=lambda t, x: -x)


@pytest.fixture(params=list(cases.SOLVERS))
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


def test_simulation_keeps_dtype_start_and_global_generators(solver: str) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    x0 = torch.rand(4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = x0.detach().clone()
    path = simulate(Dynamics(velocity=lambda t, x: torch.sin(x) + t), x0, [0, 1], solver=solver)
    assert path.x.dtype == torch.float32
    assert not path.x.requires_grad
    assert torch.equal(path.x[0], before)
    assert torch.equal(x0.detach(), before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


BROKEN = {
    "blow-up": (lambda t, x: x**2, r"stopped at time (0\.99|1:|1\.[0-9])"),
    "NaN": (lambda t, x: x * math.nan, r"stopped at time 0(\.02)?: NaN .* in 3 of 3 cells"),
    "infinite later": (lambda t, x: torch.where(t > 2, torch.inf, -x), r"NaN or infinite values"),
    "stiff": (lambda t, x: -1e40 * (x - torch.cos(t)), r"stopped at time .*(raise `max_eval|NaN)"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_diverging_field_raises_with_the_time(solver: str, name: str) -> None:
    field, words = BROKEN[name]
    x0 = torch.ones(3, 1, dtype=torch.float64)
    start = time.perf_counter()
    with pytest.raises(IntegrationError, match=words):
        simulate(Dynamics(velocity=field), x0, [0, 8], solver=solver, max_step=0.02)
    assert time.perf_counter() - start < 10  # a second or two on an idle machine


def test_nan_in_the_last_slope_raises() -> None:
    field = Dynamics(velocity=lambda t, x: torch.where(t == 1, torch.nan, x))
    with pytest.raises(IntegrationError, match="time 1: NaN"):
        simulate(field, torch.ones(2, 1), [0, 0.99, 1], solver="midpoint")
    assert torch.isfinite(simulate(field, torch.ones(2, 1), [0, 1], solver="midpoint").x).all()


@pytest.mark.parametrize("adaptive", [s for s in cases.SOLVERS if SOLVERS[s].step is None])
def test_stiff_field_raises_at_the_bound_on_evaluations(adaptive: str) -> None:
    stiff = Dynamics(velocity=lambda t, x: -1e8 * (x - torch.cos(t)))
    with pytest.raises(IntegrationError, match="200 evaluations of the field were not enough"):
        simulate(
            stiff, torch.ones(3, 1), [0, 1], solver=adaptive, limits=Limits(max_evaluations=200)
        )


BAD = [
    ({"times": [0.0]}, ValueError, "`times`: got 1 times, expected at least 2"),
    ({"times": [0, 1, 1, 2]}, ValueError, "`times`: got time 1 twice in a row"),
    ({"times": [0, 2, 1]}, ValueError, "a change of direction at time 2"),
    ({"times": [0, math.nan]}, ValueError, "`times`: got NaN or infinite times"),
    ({"times": [[0, 1]]}, ValueError, r"`times`: got shape \(1, 2\)"),
    ({"times": 3.0}, ValueError, r"`times`: got shape \(\)"),
    ({"times": "days"}, TypeError, "`times`: got str"),
    ({"solver": "rk45"}, ValueError, "Did you mean 'rk4'"),
    ({"max_step": 0.0}, ValueError, r"`max_step`: got 0.0, expected a finite number in \(0"),
    ({"x0": [1.0, 2.0]}, ValueError, r"`x0`: got shape \(2,\)"),
    ({"x0": [[math.nan, 2.0]]}, ValueError, "`x0`: got NaN"),
    (
        {"dynamics": Dynamics(velocity=lambda t, x: x[:, :1])},
        ValueError,
        r"`dynamics.velocity`: got shape \(3, 1\), expected shape \(3, 2\)",
    ),
    (
        {"dynamics": Dynamics(velocity=lambda t, x: x.double())},
        ValueError,
        r"`dynamics.velocity`: got values of torch.float64, expected torch.float32 as in `x0`",
    ),
    (
        {"dynamics": Dynamics(velocity=lambda t, x: x, growth=lambda t, x: x)},
        ValueError,
        r"`dynamics.growth`: got shape \(3, 2\), expected shape \(3,\)",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD, ids=[w for *_, w in BAD])
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    arguments = {"dynamics": DECAY, "x0": torch.ones(3, 2), "times": [0, 1]} | change
    with pytest.raises(error, match=words):
        simulate(
            arguments.pop("dynamics"), arguments.pop("x0"), arguments.pop("times"), **arguments
        )


def test_bad_limits_are_named() -> None:
    for name, value in (("rtol", 0), ("atol", -1), ("max_evaluations", 0), ("memory", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            Limits(**{name: value})


def test_trajectory_is_read_by_time() -> None:
    path = Trajectory(
        torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64),
        torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 5.0]]]),
    )
    assert path.at(0.1 + 0.2).tolist() == [[3.0, 4.0]]
    assert path.final.tolist() == [[3.0, 5.0]]
    assert path.path_length.tolist() == [6.0]
    assert path.mass is None
    with pytest.raises(ValueError, match=r"`time`: got 0\.5, expected one of the simulated"):
        path.at(0.5)


def test_progress_is_shown_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (False, True):
        simulate(DECAY, torch.ones(3, 3), [0, 1], progress=show)
        assert ("simulate: 100%" in capsys.readouterr().err) is show


def test_torchdyn_loads_for_adjoint_gradients_only() -> None:
    code = (
        "import sys, torch, warnings; warnings.simplefilter('ignore');"
        "from cellflow.dynamics import Dynamics; from cellflow.simulate import simulate;"
        "f = Dynamics(velocity=lambda t, x: -x); x = torch.ones(1, 1);"
        "simulate(f, x, [0, 1], solver='dopri5'); assert 'torchdyn' not in sys.modules, 'eager'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
