"""``cellflow match``: tables of two clouds in, a matching and the points carried out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import cellflow
from cli_files import cellflow_

X0, X1 = (np.random.default_rng(k).normal(2.0 * k, 1.0, (60, 2)) for k in (0, 1))


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "a.npy", X0)
    table = pd.DataFrame(X1, columns=["x", "y"]).assign(name="cell")
    table.to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


def test_match_is_that_from_python(files):
    out, moved = files / "out", files / "moved.npy"
    words = ["match", files / "a.npy", files / "b.csv", "--steps", 20, "--seed", 3, "--quiet"]
    result = cellflow_(*words, "--carried", moved, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "60 points to 60, 2 dimensions" in result.stdout and "W2" in result.stdout
    same = cellflow.match(X0, X1, steps=20, generator=3, progress=False).transport(X0)
    np.testing.assert_allclose(np.load(moved), same.numpy(), rtol=1e-6)
    assert (cellflow.load(out).transport(X0).numpy() == np.load(moved)).all()

    result = cellflow_("interpolate", out, "--time", "0.5", "--out", files / "x.h5ad")
    assert result.exit_code == 2 and "is a matching" in result.stderr


def test_cells_are_read_from_h5ad(cells, files):
    out = files / "out"
    result = cellflow_("match", cells, cells, "--method", "nsf", "--steps", 2, "-q", "--out", out)
    assert result.exit_code == 0, result.stderr
    result = cellflow_("match", cells, cells, "--use-rep", "X_pcb", "--out", files / "other")
    assert result.exit_code == 2 and "X_pca" in result.stderr


def test_only_models_with_a_map_are_named():
    for command in ("match", "batch-free"):
        text = cellflow_(command, "--help").stdout
        assert "nsf" in text and "gmm" not in text
    assert "gmm" in cellflow_("density-ratio", "--help").stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [("b.csv", "Did you mean 'otcfm'?"), ("words.npy", "holds no points"), ("c.csv", "dimensions")],
)
def test_what_is_wrong_is_said_in_a_line(name, told, files):
    (files / "words.npy").write_text("words")
    pd.DataFrame(X1[:, :1]).to_csv(files / "c.csv", index=False)
    method = "otcmf" if name == "b.csv" else "otcfm"
    words = ["match", files / "a.npy", files / name, "--method", method, "--out", files / "out"]
    result = cellflow_(*words, "--quiet")
    assert result.exit_code == 2 and told in result.stderr
    assert len(result.stderr.splitlines()) <= 4
