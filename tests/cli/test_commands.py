"""The command line: exit codes, what goes where, files written whole, one line for bad input."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import warnings
from importlib import import_module, resources
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import cellflow
from cellflow import demo, methods, simulate
from cellflow._files import whole_file
from cellflow.cli import commands, front, options
from cellflow.evaluate import YARDSTICKS
from cli_files import cellflow_

ROW = {"held_out", "method", "seed", "metric", "value", "n_pred", "n_true", "bootstrap"}
KEYS = ["--time-key", "day", "--dims", "3", "--quiet"]


def process(*words: object, **keywords) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellflow.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **keywords)


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("fits") / "fit"
    result = cellflow_("fit", cells, *KEYS, "--whiten", "--steps", 20, "--seed", 3, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "reach: 306 cells, 3 dimensions" in result.stdout
    assert f"saved to {out}" in result.stdout
    assert result.stderr == ""
    return out


# --- what commands do ------------------------------------------------------------------------


def test_fit_is_the_one_from_python(cells, folder):
    adata = anndata.read_h5ad(cells)
    same = cellflow.tl.fit(
        adata, time_key="day", n_dims=3, whiten=True, steps=20, rng=3, progress=False
    )
    x = adata.obsm["X_pca"][:5, :3]
    assert (cellflow.load(folder).velocity(3.0, x) == same.velocity(3.0, x)).all()


@pytest.mark.parametrize("text", ["10.5", "day 10.5", "252h"])
def test_interpolate_from_a_saved_fit(text, folder, tmp_path):
    """Numbers are in the fit's unit, labels may be in another one."""
    out = tmp_path / "day.h5ad"
    result = cellflow_("interpolate", folder, "--time", text, "--n-cells", 70, "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"70 cells at day 10.5, saved to {out}\n"
    got = anndata.read_h5ad(out)
    want = cellflow.tl.interpolate(cellflow.load(folder), time=10.5, n_cells=70)
    assert np.array_equal(got.obsm["X_pca"], want.obsm["X_pca"])
    assert set(got.obs["day"]) == {10.5}


def test_interpolate_warns_of_extrapolation(folder, tmp_path):
    result = cellflow_("interpolate", folder, "--time", 27, "--out", tmp_path / "a.h5ad")
    assert result.exit_code == 0
    assert (
        result.stderr == "Warning: 27 is outside the fit's times, 1.5 to 25.5: an extrapolation.\n"
    )


def test_holdout_table_and_rows(cells, tmp_path):
    out = tmp_path / "rows.json"
    words = [*KEYS, "--time", "index", "--method", "icfm", "--seeds", 2, "--steps", 5]
    result = cellflow_("holdout", cells, *words, "--json", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "icfm against previous (w1):" in result.stdout
    rows = json.loads(out.read_text())
    assert all(set(row) == ROW for row in rows)
    assert {row["method"] for row in rows} == {"icfm", *YARDSTICKS}
    assert {row["held_out"] for row in rows} == {7.5, 13.5, 19.5}
    assert {row["seed"] for row in rows if row["method"] == "icfm"} == {0, 1}
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]


def test_holdout_csv_has_the_same_rows(cells, tmp_path):
    """Every number comes back as it was, beside those of the JSON."""
    names = {kind: tmp_path / f"rows.{kind}" for kind in ("json", "csv")}
    words = [*KEYS, "--method", "icfm", "--seeds", 1, "--steps", 2]
    out = [word for kind, file in names.items() for word in (f"--{kind}", file)]
    result = cellflow_("holdout", cells, *words, *out)
    assert (result.exit_code, result.stderr) == (0, "")
    frame = pd.read_csv(names["csv"], float_precision="round_trip")
    rows = json.loads(names["json"].read_text())
    want = [{name: v for name, v in row.items() if name != "bootstrap"} for row in rows]
    assert frame.to_dict("records") == want


def test_fit_takes_a_unit_and_a_label(cells, tmp_path):
    words = [cells, "--time-key", "stage", "--dims", 2, "--steps", 2, "--quiet"]
    out = tmp_path / "fit"
    result = cellflow_("fit", *words, "--unit", "hour", "--label-key", "word", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "times (hour): 36, 180, 324, 468, 612" in result.stdout
    saved = cellflow.load(out)
    assert saved.origin["label_key"] == "word"
    labels = np.concatenate([snapshot.labels for snapshot in saved.course.snapshots])
    assert np.array_equal(np.sort(labels), np.sort(anndata.read_h5ad(cells).obs["word"]))
    result = cellflow_("interpolate", out, "--time", "day 6-9", "--out", tmp_path / "a.h5ad")
    assert result.stdout.endswith(f"at hour 180, saved to {tmp_path / 'a.h5ad'}\n"), result.stderr


def test_auto_chooses_in_fits_and_holdouts(cells, tmp_path):
    words = [cells, "--time-key", "day", "--dims", 2, "--method", "auto", "--steps", 1]
    result = cellflow_("fit", *words, "--out", tmp_path / "fit")
    assert result.exit_code == 0, result.stderr
    saved = cellflow.load(tmp_path / "fit")
    assert result.stdout.startswith(f"{saved.method.name}: 306 cells")
    assert "over 3 time points left out" in saved.origin["choice"]
    assert saved.origin["choice"] in result.stderr
    result = cellflow_("holdout", *words, "--seeds", 1, "--json", tmp_path / "rows.json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("over 2 time points left out") == 3
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["method"] for row in rows} == {"auto", *YARDSTICKS}
    result = cellflow_("fit", *words, "--sigma", 0.3, "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --sigma: got 0.3, expected none for 'auto'")


def test_demo_replaces_an_earlier_one_with_the_same(tmp_path):
    """Everything is written, and a second run replaces it with the same."""
    (tmp_path / "mine.txt").write_text("stays")
    results = []
    for _ in range(2):
        echoed: list[str] = []
        options = {"echo": echoed.append, "steps": 5, "holdout_steps": 5, "seeds": 1}
        written = demo.demo(tmp_path, **options, progress=False)
        day = anndata.read_h5ad(tmp_path / "interpolated.h5ad")
        results.append((echoed, day.obsm["X_pca"], (tmp_path / "holdout.json").read_text()))
    (first, x, rows), (second, again, same_rows) = results
    assert first == second
    assert rows == same_rows
    assert np.array_equal(x, again)
    assert set(day.obs["day"]) == {demo.UNSAMPLED_DAY}
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in written} | {"mine.txt"}
    assert sum(p.suffix == ".png" for p in written) == 5
    assert "velocity_pca" in anndata.read_h5ad(tmp_path / "velocity.h5ad").obsm


def test_reproduce_prints_seeds_and_days_apart(tmp_path):
    bundled, out = resources.files("cellflow.datasets") / "embryoid.npz", tmp_path / "rows.json"
    words = ["--dataset", "eb", "--path", bundled, "--seeds", 2, "--steps", 3, "--quiet"]
    result = cellflow_("reproduce", "otcfm", *words, "--json", out)
    assert (result.exit_code, result.stderr) == (0, "")
    head, midpoint, icfm, otcfm, _, note = result.stdout.splitlines()
    assert head.split()[-7:] == ["std", "over", "seeds", "spread", "over", "days", "published"]
    assert icfm.endswith("0.872 ± 0.087")
    assert otcfm.endswith("0.790 ± 0.068")
    assert note.startswith("The file: 2,750 of the paper's 16,819 cells: too few")
    rows = json.loads(out.read_text())
    assert all(set(row) == ROW and row["n_pred"] == row["n_true"] == 550 for row in rows)
    assert len(rows) == 3 * (1 + 2 * 2)
    # Independent: both assignments by scipy.optimize.linear_sum_assignment, in float64.
    measured = [row["value"] for row in rows if row["method"] == "ot_midpoint"]
    assert measured == pytest.approx([0.84832, 0.88378, 0.92972], abs=1e-4)
    assert midpoint.startswith("ot_midpoint")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (
            "sf2m {mine} --steps 2 --seeds 1 --dims 2 --kind exact --sigma 0.1 --no-otcfm --no-sde",
            ["ot_midpoint", "sf2m_exact, sigma 0.1", "floor, random halves"],
        ),
        ("planar --task N-moons --steps 2 --seeds 1", ["cellflow otcfm, fresh", "best published"]),
        ("bridges --dims 2 --steps 2 --seeds 1", ["exact drift", "cellflow dsbm, seen"]),
    ],
    ids=["sf2m", "planar", "bridges"],
)
def test_reproduce_prints_any_table(words, rows, tmp_path, monkeypatch):
    """Of two steps each, and on a file of one's own, which is said."""
    for name in ("planar", "bridges"):  # as fast as they can be
        monkeypatch.setattr(import_module(f"accuracy.{name}"), "CELLS", 60)
    mine = tmp_path / "mine.npz"
    generator = np.random.default_rng(0)
    np.savez(mine, X=generator.normal(size=(240, 3)), t=np.repeat([0, 1, 2], 80))
    result = cellflow_("reproduce", *words.format(mine=f"cite {mine}").split())
    assert result.exit_code == 0, result.stderr
    assert all(row in result.stdout for row in rows)
    assert ("a file of your own, mine.npz" in result.stdout) == words.startswith("sf2m")


def test_reproduce_lists_its_tables():
    out = cellflow_("reproduce", "--help").stdout
    for name in ("otcfm", "sf2m", "planar", "bridges", "heldout", "perturbation", "scaling"):
        assert f"\n  {name} " in out
    assert "Kullback-Leibler" in cellflow_("reproduce", "bridges", "--help").stdout


def test_reproduce_outside_a_checkout_says_where_to_run_it(monkeypatch):
    monkeypatch.setattr(commands, "TABLES", "benchmarks/none.py")
    result = cellflow_("reproduce", "otcfm")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tables are not installed with the package. Run this command in" in result.stderr


# --- where it goes ---------------------------------------------------------------------------


def test_progress_is_on_standard_error(cells, tmp_path):
    """A real process: results alone on standard output."""
    words = ["fit", cells, "--time-key", "stage", "--dims", 2, "--steps", 20]
    loud = process(*words, "--out", tmp_path / "a")
    quiet = cellflow_(*words, "--out", tmp_path / "b", "--quiet")
    assert (loud.returncode, quiet.exit_code) == (0, 0)
    assert "day 6-9" in loud.stderr
    assert "100%" in loud.stderr
    assert quiet.stderr == ""
    assert loud.stdout.splitlines()[:2] == quiet.stdout.splitlines()[:2]


def test_bad_input_of_a_process(tmp_path):
    result = process("holdout", tmp_path / "none.h5ad", "--time-key", "day")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")


def test_ctrl_c_keeps_the_fit(cells, tmp_path):
    words = ["fit", cells, "--time-key", "day", "--dims", 3, "--steps", 10**7]
    child = subprocess.Popen(
        [sys.executable, "-m", "cellflow.cli", *map(str, words), "--out", str(tmp_path / "fit")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = ""
        while "loss" not in seen:  # the bar says it after the first validation
            character = child.stderr.read(1)
            assert character, f"ended early: {seen}"
            seen += character
        child.send_signal(signal.SIGINT)
        _, rest = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert rest.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in rest
    assert cellflow.load(tmp_path / "fit").history.stopped == "interrupted"


@pytest.mark.parametrize(
    "line",
    [
        "holdout {cells} --time-key day --dims 3 --json {out}/a.json --quiet",
        "reproduce otcfm --dataset eb --path {bundled} --dims 2 --json {out}/a.json --quiet",
        "demo --out {out} --quiet",
    ],
)
def test_ctrl_c_ends_more_than_one_fit(line, cells, tmp_path, monkeypatch):
    """A fit that was interrupted returns its best weights; what needs many must not go on."""
    fit = methods.FlowMatching.fit

    def interrupted(self, course, **keywords):
        out = fit(self, course, **(keywords | {"steps": 1}))
        out.history.stopped = "interrupted"
        return out

    monkeypatch.setattr(methods.FlowMatching, "fit", interrupted)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # workers would not see it
    bundled = resources.files("cellflow.datasets") / "embryoid.npz"
    result = cellflow_(*line.format(cells=cells, bundled=bundled, out=tmp_path).split())
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.strip() == "Interrupted."  # below the ^C of a terminal
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_heavy_library():
    code = (
        "import sys; from cellflow.cli import main\n"
        "try: main(['fit', '--help'])\n"
        "except SystemExit: print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--time-key" in result.stdout
    assert not {"torch", "anndata", "scanpy", "numpy"} & set(eval(result.stdout.splitlines()[-1]))


def test_version():
    assert cellflow_("--version").stdout == f"cellflow, version {cellflow.__version__}\n"


@pytest.mark.parametrize(
    ("argument", "family"), [("method", [*methods.METHODS, "auto"]), ("solver", simulate.SOLVERS)]
)
def test_help_names_all_members_of_a_family(argument, family):
    assert set(options.NAMES[argument]) == set(family)


@pytest.mark.parametrize("name", ["fit", "interpolate", "simulate", "holdout", "couple"])
def test_options_are_those_of_the_function(name):
    """Parsed from the source, which is not imported: the signature is the judge."""
    signature = inspect.signature(getattr(cellflow.tl, name))
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    parsed = options.arguments(name)
    assert list(parsed) == [p.name for p in keywords]
    for parameter in keywords:
        ours = parsed[parameter.name]
        assert ours.required == (parameter.default is parameter.empty)
        assert ours.annotation == parameter.annotation
        assert ours.required or ours.default == parameter.default
        assert ours.text, parameter.name


# --- when things go wrong --------------------------------------------------------------------


def test_error_that_is_not_about_input_keeps_its_traceback(folder, tmp_path, monkeypatch):
    def broken(*args, **keywords):
        raise ValueError("shapes (3,) and (4,)")

    monkeypatch.setattr("cellflow.tl.interpolate", broken)
    result = cellflow_("interpolate", folder, "--time", "3", "--out", tmp_path / "a.h5ad")
    assert (result.exit_code, type(result.exception)) == (1, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(folder, tmp_path, monkeypatch):
    def half(self, path):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", half)
    out = tmp_path / "a.h5ad"
    out.write_text("old")
    result = cellflow_("interpolate", folder, "--time", "3", "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: No space left on device")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.h5ad": "old"}


def test_links_and_pipes_stay_what_they_are(tmp_path):
    """Writing a temporary file and renaming it must not replace a device such as /dev/null."""
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with whole_file(tmp_path / "link") as file:
        file.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with whole_file(tmp_path / "pipe") as file:
        assert file == tmp_path / "pipe"
    assert (tmp_path / "pipe").is_fifo()


def test_warnings_of_others_are_not_shown(capsys):
    with front.quiet_neighbours():
        warnings.warn_explicit("theirs", UserWarning, "/elsewhere/a.py", 1)
        warnings.warn_explicit("ours,\nand long", RuntimeWarning, cellflow.__file__, 1)
    assert capsys.readouterr() == ("", "Warning: ours, and long\n")
