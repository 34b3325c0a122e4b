"""Input from the edges: what is unusual but right works, and what is wrong is named."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow import TimeCourse, _checks
from cellflow._threads import one_thread
from cellflow.batches import Batching
from cellflow.couplings import Exact, Given
from cellflow.methods import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.timecourse import Snapshot
from cellflow.training import Checkpointing

PARTS = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}
METHOD = cf.OTCFM(**PARTS)


def cells(n: int = 60, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)


def course(n: int = 60) -> TimeCourse:
    return TimeCourse.from_arrays([cells(n), cells(n) + 1, cells(n) + 3])


def fitted(method: FlowMatching = METHOD, on: TimeCourse | None = None, **options) -> cf.Fit:
    return method.fit(on or course(), **{"steps": 5, "progress": False} | options)


# --- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.astype(">f4"), np.asfortranarray],
    ids=["backwards", "mirrored", "big-endian", "by columns"],
)
def test_course_accepts_arrays_of_any_memory_layout(odd) -> None:
    x = odd(np.arange(12, dtype=np.float32).reshape(4, 3))
    mass = odd(np.arange(1, 5, dtype=np.float32)[:, None])[:, 0]
    s = Snapshot(x, 0.0, mass)
    assert s.x.tolist() == x.tolist()
    assert s.mass.tolist() == mass.tolist()
    assert cf.metrics.wasserstein1(x, x, x_mass=mass, y_mass=mass) == 0.0


def test_course_takes_the_common_dtype_of_its_arrays() -> None:
    mixed = TimeCourse.from_arrays([cells(dtype=torch.float32), cells() + 1])
    assert [s.x.dtype for s in mixed.snapshots] == [torch.float64] * 2
    assert [s.mass.dtype for s in mixed.snapshots] == [torch.float64] * 2
    fitted(on=mixed)
    single = Snapshot(cells(dtype=torch.float32), 0.0)
    with pytest.raises(ValueError, match="at time 1`: got torch.float64 on cpu, expected torch.fl"):
        TimeCourse((single, Snapshot(cells(), 1.0)))


def test_course_labels_are_text(tmp_path) -> None:
    c = TimeCourse(tuple(Snapshot(cells(), float(t), labels=np.arange(60) // 30) for t in range(2)))
    assert set(c.snapshots[0].labels) == {"0", "1"}
    loaded = cf.load(fitted(on=c).save(tmp_path / "fit"))
    assert loaded.course.snapshots[1].labels == c.snapshots[1].labels


def test_fit_refuses_seeds_beyond_the_largest() -> None:
    assert _checks.as_generator(2**63 - 1).initial_seed() == 2**63 - 1
    with pytest.raises(ValueError, match=f"`generator`: got {2**63}, expected an integer of at"):
        fitted(generator=2**63)


# --- fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "error", "got"),
    [
        (float("nan"), ValueError, "NaN or infinite times"),
        (np.full(60, np.inf), ValueError, "NaN or infinite times"),
        ("3", TypeError, "str"),
        (np.zeros(3), ValueError, r"shape \(3,\)"),
    ],
)
def test_velocity_refuses_invalid_times(time, error, got: str) -> None:
    with pytest.raises(error, match=rf"`time`: got {got}, expected a finite number, or one for"):
        fitted().velocity(time, cells())


def test_interpolate_has_the_dtype_of_the_data_at_every_time() -> None:
    fit = fitted(dtype=torch.float32)
    assert {fit.interpolate(t).x.dtype for t in (0.0, 0.5, 1.0)} == {torch.float64}


@dataclass(frozen=True)
class OwnPath(Straight):
    """A path that a file cannot name."""


def test_interpolate_refuses_more_cells_where_the_path_was_not_saved(tmp_path) -> None:
    method = FlowMatching(Exact(), OwnPath(0.1), **PARTS)
    loaded = cf.load(fitted(method).save(tmp_path / "fit"))
    assert len(loaded.interpolate(0.5, n_cells=60)) == 60
    with pytest.raises(ValueError, match="`n_cells`: got 61, expected at most 60. The path is the"):
        loaded.interpolate(0.5, n_cells=61)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', "\xff"])
def test_load_names_a_damaged_fit(tmp_path, text: str) -> None:
    folder = fitted().save(tmp_path / "fit")
    (folder / "fit.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"`folder`: got .*fit', not a readable fit"):
        cf.load(folder)


def test_checkpointing_is_checked_when_it_is_made(tmp_path) -> None:
    with pytest.raises(ValueError, match="`every`: got 0"):
        Checkpointing(tmp_path / "a", every=0)
    with pytest.raises(ValueError, match=r"`checkpoint`: got .* \(a folder\), expected a file"):
        Checkpointing(tmp_path)


def test_checkpoint_of_another_given_plan_is_refused(tmp_path) -> None:
    file = Checkpointing(tmp_path / "run")
    plans = torch.eye(60), torch.eye(60).flip(0)
    methods = [FlowMatching(Given(plan), Straight(0.1), **PARTS) for plan in plans]
    fitted(methods[0], checkpointing=file)
    fitted(FlowMatching(Given(plans[0].numpy()), Straight(0.1), **PARTS), checkpointing=file)
    with pytest.raises(ValueError, match="a fit that differs in plan"):
        fitted(methods[1], checkpointing=file)


def test_fallbacks_of_validation_are_counted_and_announced_once() -> None:
    def falling(source, target):
        return replace(Exact()(source, target), fallback="on purpose")

    method = FlowMatching(falling, Straight(0.1), **PARTS)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        history = fitted(method, steps=1).history
    assert len([w for w in seen if "not the one asked for" in str(w.message)]) == 1
    assert history.coupling["fallbacks"] == history.coupling["plans"]


def test_overlapping_fits_restore_the_number_of_threads() -> None:
    """One enters, another enters, the first leaves, the other leaves: as two fits may."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    entered, leave = threading.Event(), threading.Event()
    left: list[int] = []

    def other() -> None:
        with one_thread():
            entered.set()
            leave.wait(10)
        left.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            thread.start()
            assert entered.wait(10)
        assert torch.get_num_threads() == 3
        leave.set()
        thread.join()
        assert left == [3]
    finally:
        torch.set_num_threads(before)


def test_command_line_takes_every_seed() -> None:
    from cellflow.cli import options

    assert options.SEED.max == _checks.MAX_SEED


@pytest.mark.parametrize(
    ("method", "distinct"), [(cf.OTCFM(0.0), 60), (cf.SBCFM(), 60), (cf.OTCFM(0.1), 80)], ids=str
)
def test_interpolate_repeats_cells_where_the_path_has_no_noise(method, distinct) -> None:
    small = replace(method, net=PARTS["net"], batching=PARTS["batching"])
    x = fitted(small).interpolate(0.5, n_cells=80).x
    assert len(x) == 80
    assert len(x.unique(dim=0)) == distinct
