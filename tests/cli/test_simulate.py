"""``cellflow simulate``: a saved fit's cells through time, on disk; and the same from the door."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow.simulate import open_trajectory
from cellflow.tl import simulate
from cli_files import cellflow_

pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fits") / "fit"
    keys = ["--time-key", "day", "--dims", 3, "--steps", 3, "--quiet"]
    assert cellflow_("fit", cells, *keys, "--out", out).exit_code == 0
    return out


def test_trajectories_are_those_from_python(cells, folder, tmp_path) -> None:
    out = tmp_path / "x.zarr"
    words = ["simulate", folder, "--n-times", 7, "--out", out, "--quiet"]
    result = cellflow_(*words)
    assert result.exit_code == 0, result.stderr
    fit, adata = cf.load(folder), anndata.read_h5ad(cells)
    times = np.linspace(fit.course.times[0], fit.course.times[-1], 7)
    whole = fit.simulate(fit.course.snapshots[0].x, times)
    stored = open_trajectory(out)
    assert torch.equal(stored.load().x, whole.x)
    n = len(fit.course.snapshots[0])
    assert f"{n} cells at 7 times, day" in result.stdout
    assert result.stdout.endswith(f"saved to {out}: cellflow.simulate.open_trajectory reads it\n")
    assert cellflow_(*words).exit_code == 0  # it is there: nothing to do
    door = simulate(adata, fit, times=times, store=tmp_path / "y.zarr")
    assert np.array_equal(door.x[:], stored.x[:])
    half = simulate(adata, fit, times=times, store=tmp_path / "z.zarr", store_dtype="float16")
    assert half.x.dtype == np.float16


def test_options_choose_cells_and_times(folder, tmp_path) -> None:
    fit, out = cf.load(folder), tmp_path / "x.zarr"
    days = fit.course.times
    result = cellflow_(
        "simulate", folder, "--start", f"day {days[2]:g}", "--end", days[0], "--n-times", 3,
        "--n-cells", 5, "--seed", 2, "--half", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "simulate: 100%" in result.stderr
    stored = open_trajectory(out)
    assert stored.x.shape == (3, 5, 3)
    assert stored.x.dtype == np.float16
    assert stored.times.tolist() == [days[2], (days[2] + days[0]) / 2, days[0]]
    known = fit.course.snapshots[2].x.half()
    drawn = torch.from_numpy(stored.x[0])
    assert bool((drawn[:, None] == known).all(-1).any(1).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "5.2"], "'--start': 5.2 is none of the fit's times: "),
        (["--start", "soon"], "--start: got 'soon', expected a finite number of days, or a label"),
        (["--end", "1.5", "--start", "1.5"], "'--end': 1.5 is where the cells start."),
        (["--seed", "1", "--n-cells", "4"], "--out: got .*, which holds a simulation of other ce"),
    ],
)
def test_bad_input_is_one_line(options, words, folder, tmp_path) -> None:
    out = tmp_path / "x.zarr"
    first = cf.load(folder).course.times[0]
    options = [f"{first:g}" if o == "1.5" else o for o in options]
    words = words.replace("1.5", f"{first:g}")
    if "--seed" in options:
        assert cellflow_("simulate", folder, "--n-cells", 4, "--out", out, "-q").exit_code == 0
    result = cellflow_("simulate", folder, *options, "--out", out, "-q")
    assert result.exit_code == 2
    line = result.stderr.strip()
    assert "\n" not in line
    assert line.startswith("Error: ")
    head, _, tail = words.partition(".*")
    assert head in line
    assert tail in line
