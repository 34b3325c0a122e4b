"""The short form of the fuzzer, what its long form found, and that it finds what is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow.answers.labels import shares_near
from cellflow.batches import Batching
from cellflow.couplings import Reach, Unbalanced
from cellflow.training import FitOptions, History, Training
from cellflow.training.optimizers import OwnOptimizer
from cli_files import cellflow_
from robustness import fuzz
from robustness.doors import METHODS, NASTY, WORLD, doors

CASES = 250


def test_no_case_ends_badly() -> None:
    rows = list(fuzz.run(1, list(range(CASES))))
    assert [row for row in rows if row["kind"] not in fuzz.FINE] == []
    assert {row["family"] for row in rows} == set(fuzz.SHARES)
    assert {"ok", "refused"} <= {row["kind"] for row in rows}


def test_every_door_is_tried() -> None:
    names = {door.name for door in doors()}
    assert {f"tl.{name}" for name in cf.tl.__all__ if name != "Coupled"} <= names
    assert {f"METHODS.{name}" for name in METHODS} <= names
    assert {"fit.simulate", "ensemble.save", "pp.course", "metrics.mmd", "couplings.Exact"} <= names


# --- what was planted is found ---------------------------------------------------------------
def _raise(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: _raise(AttributeError("'list' object has no attribute 'x'")), "raw error"),
        (lambda: _raise(ValueError("The truth value of an array")), "raw error"),
        (lambda: _raise(MemoryError("Unable to allocate")), "raw error"),
        (lambda: _raise(ValueError("`x`: got 1, expected 2.")), "refused"),
        (lambda: _raise(fuzz.Stopped()), "too long"),
        (lambda: {"a": [torch.tensor([1.0, torch.nan])]}, "silent NaN"),
        (lambda: pd.DataFrame({"a": [np.nan], "b": ["c"]}), "silent NaN"),
        (lambda: 1.0, "ok"),
    ],
)
def test_ends_are_told_apart(call, kind) -> None:
    assert fuzz.judge(call)[0] == kind


def test_changed_cells_and_files_are_found(tmp_path) -> None:
    cells = WORLD.cells.copy()
    before = fuzz.state_of(cells)
    assert fuzz.state_of(cells.copy()) == before
    cells.obsm["X_pca"][0, 0] += 1
    assert fuzz.state_of(cells) != before
    assert fuzz.left_over(tmp_path, "refused") is None
    (tmp_path / "out.csv").write_text("")
    assert fuzz.left_over(tmp_path, "ok") is None
    assert fuzz.left_over(tmp_path, "refused") == "['out.csv']"
    (tmp_path / ".out.tmp").write_text("")
    assert "hidden" in str(fuzz.left_over(tmp_path, "ok"))


# --- what was found stays mended -------------------------------------------------------------
MENDED = {
    "adata": lambda: cf.tl.fates(torch.tensor(2.0), WORLD.fit),
    "fit": lambda: cf.tl.growth(WORLD.cells, [True]),
    "course": lambda: cf.evaluate.without_times("a", [1.0]),
    "batching": lambda: cf.OTCFM(batching=pd.NA),
    "training": lambda: cf.SF2M(training=[]),
    "protocol": lambda: cf.evaluate.holdout(WORLD.course, cf.ICFM(), protocol="nan"),
    "start": lambda: WORLD.fit.predict(dict, 1.0),
    "folder": lambda: WORLD.fit.save(np.zeros(3)),
    "path": lambda: cf.simulate.open_trajectory("a\0b"),
    "unit": lambda: cf.TimeCourse(WORLD.course.snapshots, float("nan")),
    "snapshots": lambda: cf.TimeCourse(np.eye(2)),
    "growths": lambda: cf.TimeCourse.from_arrays([np.eye(2)] * 2, growths=3),
    "transform": lambda: WORLD.course.map(3),
    "index": lambda: WORLD.snapshot.subset([0]),
    "device": lambda: WORLD.course.to("gpu"),
    "solver": lambda: WORLD.fit.simulate(WORLD.snapshot.x, [0, 1], solver=np.zeros(2)),
    "time": lambda: WORLD.fit.velocity(torch.empty((), device="meta"), WORLD.snapshot.x),
    "end": lambda: WORLD.coupled.pull("mass", 0, NASTY["bad sparse"]()),
    "labels": lambda: WORLD.coupled.table(np.ones((72, 2)), 0, 1),
    "limit": lambda: WORLD.transitions.matrix(0, 3, limit="a"),
    "metrics": lambda: cf.evaluate.sigma_sweep(WORLD.course, metrics=np.ones((2, 2))),
    "memory": lambda: cf.pp.pca(WORLD.cells.copy(), n_components=2, memory=[1]),
    "decoder": lambda: cf.tl.expression(WORLD.fit, WORLD.snapshot.x, decoder=3),
    "terminal": lambda: cf.tl.fates(WORLD.cells.copy(), WORLD.fit, terminal=np.ones(3)),
    "cells": lambda: cf.tl.simulate(WORLD.cells, WORLD.fit, cells=torch.eye(3).to_sparse()),
    "reach": lambda: Reach(reach=np.ones(3)),
    "scales": lambda: Reach(scales=[2, 1, 0]),
    "relaxation": lambda: Unbalanced(relaxation=np.ones(3)),
    "seed": lambda: FitOptions(seed="a"),
    "batch_size": lambda: Batching(batch_size=10**400),
    "reuse": lambda: Batching(reuse=np.timedelta64(3, "D")),
    "optimizer": lambda: Training(optimizer={}),
    "history.seconds": lambda: History(seconds="a"),
    "plan": lambda: cf.couplings.Given(torch.empty(3, 3, device="meta")),
    "times": lambda: WORLD.course.retimed(NASTY["bad sparse"]()),
    "exclude": lambda: cf.pp.suggest_sigma(
        WORLD.cells, time_key="day", exclude=NASTY["bad sparse"]()
    ),
    "epsilon": lambda: Unbalanced(relative_epsilon=1e-300)(WORLD.snapshot, WORLD.snapshot),
    "method": lambda: cf.evaluate.sigma_sweep(WORLD.course, lambda sigma: [sigma]),
    "states": lambda: cf.tl.expression(WORLD.fit, np.full((2, 3), np.nan)),
    "bins": lambda: cf.densities.NSF(bins=np.nan),
    "teacher": lambda: cf.densities.distill_density(torch.eye(3)),
    "shift": lambda: cf.toys.moons(3, shift=np.timedelta64(3, "D")),
    "ax": lambda: cf.pl.comparison(WORLD.told, ax=torch.ones(24, dtype=torch.bfloat16)),
    "n_grid": lambda: cf.pl.velocity(WORLD.told, n_grid=2**31),
    "palette": lambda: cf.pl.perturbation(WORLD.told, palette=NASTY["closed file"]()),
    "fates": lambda: cf.pl.gene_trends(WORLD.told, fates=NASTY["closed file"]()),
    "max_step": lambda: WORLD.ensemble.simulate(WORLD.snapshot.x, [0, 1], max_step="a"),
}


@pytest.mark.parametrize("name", MENDED)
def test_an_argument_that_gave_way_is_refused_by_name(name) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^`{name}`: got .*, expected "):
        MENDED[name]()


def test_a_tensor_without_values_is_no_time() -> None:
    with pytest.raises(TypeError, match="`time`: got .*, expected a finite number"):
        WORLD.course.retimed(torch.empty(3, device="meta"))


@pytest.mark.parametrize("bandwidth", [1e-300, 1e300])
def test_bandwidths_at_the_ends_of_all_numbers(bandwidth) -> None:
    """The kernel is then one for equal cells alone, or for all."""
    x, y = torch.zeros(2, 1), torch.ones(2, 1)
    expected = 2.0 if bandwidth < 1 else 0.0
    assert cf.metrics.mmd(x, y, bandwidth=bandwidth, unbiased=False) == expected


def test_numbers_are_no_blocks_of_cells() -> None:
    with pytest.raises(ValueError, match=r"`sources\[0\]`: got shape \(\), expected shape"):
        cf.match((k for k in range(3)), torch.zeros(3, 1))


def test_a_sparse_matrix_is_no_name() -> None:
    with pytest.raises(TypeError, match="`method`: got csr_matrix, expected a name"):
        cf.match(torch.zeros(3, 1), torch.zeros(3, 1), NASTY["bad sparse"]())


def test_whether_averages_are_learned_is_true_or_false() -> None:
    assert cf.networks.MLPConfig(average=np.int8(3)).average is True


def test_one_number_is_no_state() -> None:
    with pytest.raises(ValueError, match="`states`: got one number"):
        cf.tl.expression(WORLD.fit, np.float32(1), decoder=lambda x: None)


def test_times_may_come_one_by_one() -> None:
    assert WORLD.course.retimed(k for k in range(3)).times == (0, 1, 2)


def test_a_base_of_another_kind_is_named() -> None:
    with pytest.raises(TypeError) as error:
        WORLD.fit.log_prob(WORLD.snapshot.x, 1.0, base=WORLD.fit)
    assert "`base`" in error.value.__notes__[0]


def test_a_reach_beyond_all_cells_is_a_balanced_plan() -> None:
    source, target, _ = WORLD.course.snapshots
    plan = Reach(reach=1e308)(source, target)
    assert torch.allclose(plan.matrix.sum(0), target.weights, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("transform", lambda own: WORLD.course.map(own)),
        ("optimizer", lambda own: OwnOptimizer(torch.zeros(2), own, rate=0.1)),
        ("method", lambda own: cf.evaluate.sigma_sweep(WORLD.course, own)),
        (
            "dynamics",
            lambda own: cf.simulate.simulate(
                cf.Dynamics(lambda t, x: own(x)), torch.zeros(1, 2), [0, 1]
            ),
        ),
    ],
)
def test_an_error_of_a_function_of_the_users_own_names_its_argument(name, call) -> None:
    with pytest.raises(ZeroDivisionError) as error:
        call(lambda x: 1 / 0)
    assert f"`{name}`" in error.value.__notes__[0]


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="the working directory"):
        WORLD.fit.save("")
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


def test_cells_whose_distances_overflow_are_refused() -> None:
    far = torch.tensor([[0.0], [1e200], [1e308]], dtype=torch.float64)
    with pytest.raises(ValueError, match="`cells`: got cells so far apart"):
        shares_near(torch.zeros(1, 1), far, torch.eye(3))


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_a_time_at_the_end_of_all_numbers_takes_too_many_steps() -> None:
    with pytest.raises(ValueError, match="`max_step`: got .*, expected at most"):
        cf.tl.transitions(WORLD.cells.copy(), WORLD.fit, end=1e308)


def test_a_network_answers_in_the_type_of_the_cells() -> None:
    field, x = WORLD.fit.dynamics.velocity, WORLD.snapshot.x
    assert {field(torch.tensor(0.5), x.to(t)).dtype for t in (torch.float32, torch.float64)} == {
        torch.float32,
        torch.float64,
    }


def test_numbers_of_numpy_are_those_of_python() -> None:
    assert Batching(reuse=np.int8(3)) == Batching(reuse=3)
    assert type(Batching(reuse=np.int8(3)).reuse) is int


def test_a_name_that_is_no_text_is_printed(tmp_path) -> None:
    done = cellflow_("couple", tmp_path / "\udcff", "--time-key", "day", "--out", tmp_path / "out")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_the_root_is_no_output(tmp_path) -> None:
    WORLD.cells.write_h5ad(tmp_path / "cells.h5ad")
    done = cellflow_("couple", tmp_path / "cells.h5ad", "--time-key", "day", "--out", "/")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
