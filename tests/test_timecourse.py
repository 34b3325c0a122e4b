"""A course of cells that do not fit memory: read once, by blocks, of each time point a sample."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cellflow import OTCFM
from cellflow.batches import Batching
from cellflow.timecourse import TimeCourse
from cellflow.training import Training

XS = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (70, 50)]
QUICK = OTCFM(batching=Batching(32, 16), training=Training(ema=0.9))


def drawn(*sources, **more) -> list[torch.Tensor]:
    return [s.x for s in TimeCourse.from_blocks(sources, **more).snapshots]


def rows(k: int, most: int) -> torch.Tensor:
    """Which of cells 0, 1, …, 39 a seed draws."""
    return drawn(torch.arange(40.0).view(-1, 8, 1), XS[0][:, :1], most=most, generator=k)[0][:, 0]


# --- cells that fit --------------------------------------------------------------------------
@pytest.mark.parametrize("most", [70, 10**6])
def test_all_cells_of_blocks_are_the_course_of_arrays_and_its_fit(most) -> None:
    """To the bit, in times, cells, masses and weights."""
    whole = TimeCourse.from_arrays(XS, [1, 3], unit="hour")
    course = TimeCourse.from_blocks([x.split(16) for x in XS], [1, 3], most=most, unit="hour")
    assert (course.times, course.unit) == (whole.times, whole.unit)
    for got, want in zip(course.snapshots, whole.snapshots, strict=True):
        assert torch.equal(got.x, want.x)
        assert torch.equal(got.mass, want.mass)
    fits = [QUICK.fit(c, steps=20, progress=False) for c in (course, whole)]
    assert torch.equal(*(fit.velocity(2.0, XS[0]) for fit in fits))


def test_arrays_on_disk_loaders_and_generators_give_the_same_cells(tmp_path) -> None:
    x = XS[0].numpy()
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    with h5py.File(tmp_path / "x.h5") as file:
        sources = {
            "memory map": np.load(tmp_path / "x.npy", mmap_mode="r"),
            "HDF5": file["x"],
            "loader": DataLoader(XS[0], batch_size=9),
            "loader of tuples": DataLoader(TensorDataset(XS[0]), batch_size=9),
            "generator": (block for block in XS[0].split(7)),
            "one row at a time": XS[0].split(1),
            "empty blocks": [XS[0][:0], XS[0], XS[0][:0]],
        }
        for name, source in sources.items():
            first, _ = drawn(source, XS[1], most=20)
            assert torch.equal(first, drawn(XS[0], XS[1], most=20)[0]), name


# --- cells that do not -----------------------------------------------------------------------
def test_which_cells_are_drawn_depends_on_the_seed_and_not_on_blocks() -> None:
    """However often what is held is thinned out; and cells stay in their order."""
    want = drawn(*XS, most=6, generator=3)
    for size in (1, 5, 64):
        got = drawn(*(x.split(size) for x in XS), most=6, generator=3)
        assert all(map(torch.equal, got, want))
    assert not torch.equal(drawn(*XS, most=6, generator=4)[0], want[0])
    assert rows(0, 9).diff().min() > 0  # in order, none twice


def test_every_cell_is_as_likely_alone_and_in_pairs() -> None:
    """Of 40 cells 10: one comes in 1/4 of draws, two in 1/4 · 9/39; five standard errors."""
    n = 2000
    met = torch.zeros(n, 40, dtype=torch.float64)
    for k in range(n):
        met[k, rows(k, 10).long()] = 1
    together = met.T @ met / n
    once, twice = 1 / 4, 1 / 4 * 9 / 39
    assert (together.diagonal() - once).abs().max() < 5 * (once * (1 - once) / n) ** 0.5
    off = together[~torch.eye(40, dtype=torch.bool)]
    assert (off - twice).abs().max() < 5 * (twice * (1 - twice) / n) ** 0.5


def test_a_fit_of_a_stream_learns_the_flow_of_all_its_cells() -> None:
    """Gaussians that move by 4 in 2 days, of which training meets a fiftieth."""

    def blocks(shift: float, seed: int):
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(500, 2, generator=generator) + shift for _ in range(100))

    def course(seed: int) -> TimeCourse:
        return TimeCourse.from_blocks(
            [blocks(0, 1), blocks(4, 2)], [0, 2], most=1000, generator=seed
        )

    method = OTCFM(training=Training(learning_rate=1e-2, validation=0.0))
    fit = method.fit(course(0), steps=300, progress=False)
    on = replace(fit.method, net=fit.networks)  # with other cells
    for one in (fit, on.fit(course(1), steps=100, progress=False)):
        at = torch.randn(4000, 2, generator=torch.Generator().manual_seed(3)) + 2
        speed = one.velocity(1.0, at).mean(0)
        # The error of a mean of 1,000 cells is 0.03.
        torch.testing.assert_close(speed, torch.full((2,), 2.0), rtol=0, atol=0.1)


def test_memory_does_not_grow_with_the_stream() -> None:
    """A gigabyte of cells through a process whose memory grows by less than an eighth of it."""
    script = """
import resource, torch
from cellflow import TimeCourse
def blocks(n):
    return (torch.randn(5000, 10) for _ in range(n))
TimeCourse.from_blocks([blocks(9), blocks(9)], most=20_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
course = TimeCourse.from_blocks([blocks(2500), blocks(2500)], most=20_000)
print([len(s) for s in course.snapshots])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    sizes, grown = done.stdout.splitlines()
    assert sizes == "[20000, 20000]"
    assert int(grown) < 125_000  # in kB


# --- what is no stream -----------------------------------------------------------------------
USED = iter(())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (USED, r"`sources\[1\]`: got no cells.*A generator is read once"),
        ([XS[0][:, :2], XS[0]], r"`sources\[1\]`: got 3 dimensions, expected 2"),
        ([XS[0] * float("nan")], r"`sources\[1\]`: got NaN"),
        ([XS[0][0]], r"`sources\[1\]`: got shape \(3,\)"),
        (DataLoader(TensorDataset(XS[0], XS[0]), 9), r"`sources\[1\]`: got shape \(2, 9, 3\)"),
    ],
    ids=["used up", "dimensions", "nan", "rows", "two tensors"],
)
def test_sources_that_are_none(source, said) -> None:
    with pytest.raises(ValueError, match=said):
        TimeCourse.from_blocks([XS[0], source])
    with pytest.raises(ValueError, match="`most`"):
        TimeCourse.from_blocks(XS, most=0)


def test_what_is_printed_is_a_line_however_many_cells_there_are():
    course = TimeCourse.from_arrays([torch.zeros(2000, 3), torch.zeros(1000, 3)], times=[0, 2])
    assert "Snapshot(2000 cells × 3 dimensions, time=0)" in repr(course)
    assert len(repr(course)) < 200
