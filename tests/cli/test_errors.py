"""Bad input of any kind: exit code 2, one line on standard error, nothing written."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import pytest

from cellflow.cli.front import as_one_line
from cli_files import cellflow_

BAD = [
    ("", "Missing command."),
    ("fitt", "No such command 'fitt'."),
    ("fit {cells} --out {new}", "--time-key: got None, expected a column of obs"),
    ("fit {cells} --time-key day --out {new} --stepz 3", "--stepz"),
    ("fit none.h5ad --time-key day --out {new}", "File 'none.h5ad' does not exist."),
    ("fit {text} --time-key day --out {new}", "is not a readable .h5ad file"),
    ("fit {other} --time-key day --out {new}", "is not a readable .h5ad file"),
    ("fit {tmp} --time-key day --out {new}", "is a directory."),
    ("fit {cells} --time-key dya --out {new}", "--time-key: got 'dya', expected one of"),
    ("fit {cells} --time-key dya --out {new}", "Did you mean 'day'?"),
    ("fit {cells} --time-key word --out {new}", "label(s) 'early', 'late', expected numbers or"),
    ("fit {cells} --time-key word --out {new}", "From Python, pass time_map={'early': 0.0"),
    ("fit {cells} --time-key gaps --out {new}", "Set --missing drop to leave"),
    ("fit {cells} --time-key day --use-rep X_pcb --out {new}", "--use-rep: got 'X_pcb'"),
    ("fit {cells} --time-key day --dims 0 --out {new}", "'--dims': 0 is not in the range"),
    ("fit {cells} --time-key day --dims 101 --out {new}", "--dims: got 101, expected at most 100"),
    ("fit {cells} --time-key day --method otfcm --out {new}", "Did you mean 'otcfm'?"),
    ("fit {cells} --time-key day --steps x --out {new}", "'x' is not a valid integer"),
    ("fit {cells} --time-key day --out {tmp}", "is not empty. Name a new folder."),
    ("fit {cells} --time-key day --out {text}", "is a file, a folder is expected."),
    ("fit {cells} --time-key day --out {text}/fit", "is a file, a folder is expected."),
    ("fit {cells} --time-key day --use-rep X --whiten --quiet --out {new}", "constant dimensions"),
    ("interpolate {new} --time 3 --out a.h5ad", "does not exist."),
    ("interpolate {tmp} --time 3 --out a.h5ad", "expected a folder written by `fit.save`."),
    ("interpolate {broken} --time 3 --out a.h5ad", "not a readable fit"),
    ("interpolate {fit} --time nan --out {new}", "--time: got 'nan', expected a finite number"),
    ("interpolate {fit} --time inf --out {new}", "--time: got 'inf', expected a finite number"),
    ("interpolate {fit} --time 1e308 --out {new}", "--time: got '1e308', expected a finite number"),
    ("interpolate {fit} --time soon --out {new}", "--time: got 'soon', expected a finite number"),
    ("interpolate {fit} --time 3 --n-cells 0 --out {new}", "'--n-cells': 0 is not in the range"),
    ("interpolate {fit} --time 3 --out {new}/a.h5ad", "There is no folder"),
    ("interpolate {fit} --time 3 --out {tmp}", "is a folder, a file is expected."),
    ("holdout {two} --time-key day", "got 2 time points, expected 3"),
    ("holdout {cells} --time-key day --time real", "--time: got 'real', expected one of 'index'"),
    ("holdout {cells} --time-key day --json {new}/a.json", "There is no folder"),
    ("demo --out {text}", "is a file, a folder is expected."),
    ("reproduce otcfm --dataset eb --path none", "no file at none"),
    ("reproduce otcfm --dataset eb --path {text}", "expected an .npz or .h5ad file"),
    ("reproduce otcfm --dataset ebb --path {cells}", "'ebb' is not one of 'cite', 'eb', 'multi'"),
    ("reproduce sf2m eb none", "no file at none"),
    ("reproduce sf3m", "'sf3m' is not one of"),
]


@pytest.fixture(scope="module")
def places(cells, tmp_path_factory) -> dict[str, Path]:
    tmp = tmp_path_factory.mktemp("bad")
    folder = tmp / "fit"
    words = ["--time-key", "day", "--dims", 3, "--steps", 5, "--quiet", "--out", folder]
    assert cellflow_("fit", cells, *words).exit_code == 0
    text, broken = tmp / "text.h5ad", tmp / "broken"
    text.write_text("not HDF5")
    broken.mkdir()
    (broken / "fit.json").write_text("{")
    other, two = tmp / "other.h5ad", tmp / "two.h5ad"
    with h5py.File(other, "w") as stored:
        stored["a"] = [1.0]
    adata = anndata.read_h5ad(cells)
    adata[adata.obs["day"] < 10].copy().write_h5ad(two)
    names = {"cells": cells, "fit": folder, "tmp": tmp, "text": text, "broken": broken}
    return names | {"other": other, "two": two, "new": tmp / "new"}


@pytest.mark.parametrize(("line", "message"), BAD, ids=[f"{a} ({b[:20]})" for a, b in BAD])
def test_bad_input_is_one_line(line, message, places):
    result = cellflow_(*line.format(**places).split())
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not places["new"].exists()


def test_a_file_that_cannot_be_read_is_said_in_one_line():
    error = OSError("Can't read data\n(bad offset)")  # as HDF5 raises it, without a number
    assert as_one_line(error) == "A file cannot be read (Can't read data (bad offset))."
