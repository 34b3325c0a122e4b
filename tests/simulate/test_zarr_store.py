"""Trajectories on disk: the same bits as in memory, whatever interrupts the writing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from cellflow.dynamics import Dynamics
from cellflow.methods import OTCFM
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import (
    Limits,
    Output,
    StoredTrajectory,
    Trajectory,
    open_trajectory,
    simulate,
    zarr_store,
)
from cellflow.timecourse import TimeCourse

pytest.importorskip("zarr")

TIMES = [0.0, 0.13, 0.5, 1.0, 2.0]
SMALL = 100_000  # bytes: chunks of a few cells


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_store, "PART_CHUNKS", 3)


def cells(n: int = 60, d: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=dtype)


def wave(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.sin(3 * x) - x + t.to(x)


def simulated(
    dynamics: Dynamics, x0: torch.Tensor, times: list[float], *, memory: float = 2**30, **options
) -> Trajectory | StoredTrajectory:
    kept = {k: options.pop(k) for k in ("readout", "store", "store_dtype") if k in options}
    limits, output = Limits(memory=memory), Output(**kept)
    return simulate(dynamics, x0, times, limits=limits, output=output, **options)


FULL = Dynamics(wave, lambda t, x: -x, lambda t, x: x[:, 0] * t, sigma=0.8, breaks=(0.7,))
CASES = {
    "rk4": (Dynamics(wave), {}),
    "sra1, growth, a break": (FULL, {"solver": "sra1", "generator": 4}),
    "euler_maruyama backward": (FULL, {"solver": "euler_maruyama", "times": TIMES[::-1]}),
    "readout": (Dynamics(wave), {"readout": lambda x: x @ x.new_ones(3, 7) + 1}),
    "float64": (Dynamics(wave), {"x0": cells(dtype=torch.float64)}),
}


def both(name: str, folder: Path) -> tuple[Trajectory, StoredTrajectory]:
    dynamics, given = CASES[name]
    given = {"x0": cells(), "times": TIMES, "memory": SMALL} | given
    x0, times = given.pop("x0"), given.pop("times")
    stored = simulated(dynamics, x0, times, store=folder, **given)
    return simulated(dynamics, x0, times, **given), stored


@pytest.mark.parametrize("name", list(CASES))
def test_store_holds_the_same_bits_as_memory(name: str, tmp_path: Path) -> None:
    whole, stored = both(name, tmp_path / "x.zarr")
    assert stored.x.shape == whole.x.shape
    assert stored.x.chunks[1] < 60  # in several parts
    assert np.array_equal(stored.x[:], whole.x.numpy())
    for part in (stored, open_trajectory(tmp_path / "x.zarr"), stored.load()):
        assert torch.equal(part.final, whole.final)
        assert torch.equal(part.times, whole.times)
        assert torch.equal(part.at(0.5), whole.at(0.5))
        assert (part.solver, part.index(0.5)) == (whole.solver, whole.index(0.5))
        torch.testing.assert_close(part.path_length, whole.path_length)
        assert (part.log_mass is None) == (whole.log_mass is None)
    if whole.log_mass is not None:
        assert np.array_equal(stored.log_mass[:], whole.log_mass.numpy())
        assert torch.equal(stored.load().mass, whole.mass)
    assert whole.n_evaluations > 0


class Switch:
    """A field that can be interrupted, and counts its calls."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.calls = after, 0

    def __call__(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt
        return wave(t, x)


@pytest.mark.parametrize("name", ["rk4", "sra1, growth, a break", "readout"])
def test_interrupted_store_is_continued(name: str, tmp_path: Path) -> None:
    dynamics, given = CASES[name]
    given = {"memory": SMALL, **given}
    path = tmp_path / "x.zarr"

    def run(field: Switch, store: Path | None = path) -> Trajectory | StoredTrajectory:
        parts = Dynamics(field, dynamics.score, dynamics.growth, sigma=dynamics.sigma)
        return simulated(parts, cells(), TIMES, store=store, **given)

    with pytest.raises(KeyboardInterrupt):
        run(Switch(after=450))
    with pytest.raises(ValueError, match=r"of which [1-9]\d* of \d\d? parts are written, expected"):
        open_trajectory(path)
    rest, again = Switch(), Switch()
    stored = run(rest)
    whole, unbroken = run(Switch(), None), run(Switch(), tmp_path / "y.zarr")
    assert np.array_equal(stored.x[:], whole.x.numpy())
    assert stored.n_evaluations == unbroken.n_evaluations
    assert rest.calls < unbroken.n_evaluations  # parts that were there are not done again
    assert run(again).final.equal(whole.final)
    assert again.calls == 1  # one cell, to see that it is the same field


def test_interrupted_write_leaves_no_part_marked_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, narrowed = [], zarr_store._narrowed

    def broken(states: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return narrowed(states, dtype)

    monkeypatch.setattr(zarr_store, "_narrowed", broken)
    with pytest.raises(KeyboardInterrupt):
        both("rk4", tmp_path / "x.zarr")
    whole, stored = both("rk4", tmp_path / "x.zarr")
    assert np.array_equal(stored.x[:], whole.x.numpy())
    assert not list(tmp_path.glob(".*"))


CHANGES = {
    "cells": {"x0": cells() + 1e-4},
    "times": {"times": [0.0, 0.13, 0.5, 1.0, 2.1]},
    "solver": {"solver": "midpoint"},
    "steps": {"max_step": 0.01},
    "seed": {"generator": 5},
    "store dtype": {"store_dtype": torch.float16},
    "fields": {"dynamics": Dynamics(lambda t, x: 1.001 * wave(t, x), FULL.score, sigma=0.8)},
    "sigma": {"dynamics": Dynamics(wave, FULL.score, sigma=0.81)},
    "growth": {"dynamics": FULL},
    "dtype": {"x0": cells().double()},
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_store_of_another_simulation_raises(name: str, tmp_path: Path) -> None:
    same = {
        "dynamics": Dynamics(wave, FULL.score, sigma=0.8),
        "x0": cells(),
        "times": TIMES,
        "solver": "euler_maruyama",
        "store": tmp_path / "x.zarr",
    }
    before = simulated(**same).final
    words = "cells" if name == "dtype" else name.strip()
    with pytest.raises(ValueError, match=rf"`store`: got .* a simulation of other {words}, exp"):
        simulated(**(same | CHANGES[name]))
    assert torch.equal(open_trajectory(tmp_path / "x.zarr").final, before)


def test_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"`store`: got .*mine', which holds something else"):
        simulated(Dynamics(wave), cells(), TIMES, store=tmp_path / "mine")
    with pytest.raises(ValueError, match=r"`store`: got .*thesis.tex', which holds something else"):
        simulated(Dynamics(wave), cells(), TIMES, store=tmp_path / "mine" / "thesis.tex")
    for path in (tmp_path / "mine", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"`path`: got .*, expected a store that `simulate`"):
            open_trajectory(path)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"
    (tmp_path / "empty").mkdir()
    assert simulated(Dynamics(wave), cells(), TIMES, store=tmp_path / "empty").x.shape == (5, 60, 3)


def test_half_precision_store_has_the_error_of_rounding(tmp_path: Path) -> None:
    whole = simulated(Dynamics(wave), cells(), TIMES)
    path = tmp_path / "x.zarr"
    stored = simulated(Dynamics(wave), cells(), TIMES, store=path, store_dtype="float16")
    assert stored.x.dtype == np.float16
    off = (stored.load().x.float() - whole.x).abs()
    assert bool((off <= 2.0**-11 * whole.x.abs() + 2.0**-25).all())
    torch.testing.assert_close(stored.path_length, whole.path_length, rtol=1e-2, atol=1e-3)
    far = Dynamics(lambda t, x: torch.full_like(x, 1e5))
    with pytest.raises(ValueError, match=r"`store_dtype`: got float16, for states as large as 2e"):
        simulated(far, cells(), [0, 2], store=tmp_path / "far.zarr", store_dtype=torch.float16)
    farther, x = Dynamics(lambda t, x: torch.full_like(x, 1e39)), cells(dtype=torch.float64)
    with pytest.raises(ValueError, match=r"`store_dtype`: got float32, for states as large as 2e"):
        simulated(farther, x, [0, 2], store=tmp_path / "farther.zarr", store_dtype="float32")
    with pytest.raises(ValueError, match="`store_dtype`: got 'bfloat16', expected one of"):
        simulated(Dynamics(wave), cells(), TIMES, store=path, store_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="`store_dtype`: got float16 without `store`"):
        simulated(Dynamics(wave), cells(), TIMES, store_dtype="float16")


def test_store_of_a_fit_holds_data_coordinates(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    course = TimeCourse.from_arrays(
        [torch.randn(90, 6, generator=generator) + k for k in range(3)], times=[0.0, 1.0, 3.0]
    )
    prep = fit_preprocessing(course.x, n_components=2)
    fit = OTCFM().fit(course, steps=2, progress=False, preprocessing=prep)
    path, x, times = tmp_path / "x.zarr", course.snapshots[0].x, np.linspace(0, 3, 30)
    stored = fit.simulate(x, times, store=path, limits=Limits(memory=500_000))
    whole = fit.simulate(x, times)
    assert stored.x.shape == (30, 90, 6)
    torch.testing.assert_close(stored.load().x, whole.x, rtol=1e-5, atol=1e-5)
    assert torch.equal(fit.simulate(x, times, store=path).final, stored.final)
    other = OTCFM().fit(course, steps=2, progress=False, preprocessing=prep, generator=1)
    with pytest.raises(ValueError, match="a simulation of other fields"):
        other.simulate(x, times, store=path)


def test_stochastic_solver_warns_where_a_fit_has_no_noise() -> None:
    course = TimeCourse.from_arrays([cells(), cells() + 1], times=[0.0, 1.0])
    fit = OTCFM().fit(course, steps=1, progress=False)
    with pytest.warns(
        UserWarning, match=r"'otcfm' learned no noise: solver='sra1' follows"
    ) as told:
        path = fit.simulate(cells(), [0.0, 1.0], solver="sra1")
    assert told[0].filename == __file__
    ode = fit.simulate(cells(), [0.0, 1.0])  # no warning: these are errors here
    torch.testing.assert_close(path.final, ode.final, rtol=1e-2, atol=1e-2)


def test_result_beyond_free_memory_raises_and_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = SimpleNamespace(available=60 * 5 * 3 * 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: left)
    words = (
        r"`times`: got 5 times of 60 cells in 3 dimensions: 3.35e-06 GiB in memory, "
        r"expected at most 2.68e-06 GiB, 80% of what is left. Pass store='traj"
    )
    with pytest.raises(ValueError, match=words):
        simulated(Dynamics(wave), cells(), TIMES)
    assert simulated(Dynamics(wave), cells(), TIMES[:3]).x.shape == (3, 60, 3)
    assert simulated(Dynamics(wave), cells(), TIMES, store=tmp_path / "x.zarr").x.shape[0] == 5
