"""Commands that ask about cells answer what the functions of the same name do."""

from __future__ import annotations

import inspect
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import cellflow as cf
from cellflow import tl
from cellflow.cli import answers, options
from cellflow.networks import MLPConfig
from cli_files import cellflow_

COMMANDS = (*answers.TABLES, *answers.CHANCES, *answers.COLUMNS)
#: Words and options of each command, and what they are in Python.
ASKED = {
    "ancestors": ("--n-futures 3 --neighbours 7", {"n_futures": 3, "neighbours": 7}),
    "batch_free": ("--batch-key half --steps 3", {"batch_key": "half", "steps": 3}),
    "composition": ("--seed 3 --quiet", {"rng": 3, "progress": False}),
    "density_ratio": (
        "--time-key day --start=day0 --end 2 --method gmm --steps 3",
        {"time_key": "day", "start": "day 0", "end": 2, "method": "gmm", "steps": 3},
    ),
    "drivers": ("early", {}),
    "fates": ("--end 1 --no-growth", {"end": 1.0, "growth": False}),
    "gene_trends": ("g1 g0 --fate late --n-boot 5", {"fate": "late", "n_boot": 5}),
    "growth": ("--key-added rate", {"key_added": "rate"}),
    "outlier_score": ("--reference fine --steps 3", {"reference": "fine", "steps": 3}),
    "perturb": ("g0 g2 --change 2.5 --n-null 3", {"change": 2.5, "n_null": 3}),
    "velocity": ("--key-added v", {"key_added": "v"}),
}
POSITIONAL = {"drivers": "early", "gene_trends": ["g1", "g0"], "perturb": ["g0", "g2"]}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    """Folder of a fit, and file of its cells with fates."""
    folder = tmp_path_factory.mktemp("answers")
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(90, 8))
    loadings = np.linalg.qr(rng.normal(size=(8, 2)))[0]
    obs = pd.DataFrame({"day": np.repeat([0.0, 1.0, 2.0], 30)})
    obs["kind"] = pd.Categorical(
        np.where(x @ loadings[:, 0] > np.median(x @ loadings[:, 0]), *KINDS)
    )
    obs["half"], obs["fine"] = np.array(["u", "v"])[np.arange(90) % 2], np.arange(90) % 3 > 0
    obs.index = [f"c{i}" for i in range(90)]
    var = pd.DataFrame(index=[f"g{i}" for i in range(8)])
    adata = anndata.AnnData(x, obs, var, obsm={"X_pca": x @ loadings}, varm={"PCs": loadings})
    method = cf.UOTCFM(net=MLPConfig(8, 1))
    given = {"label_key": "kind", "steps": 5, "progress": False}
    fit = tl.fit(adata, time_key="day", method=method, **given)
    tl.fates(adata, fit)
    fit.save(folder / "fit")
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "fit", folder / "cells.h5ad"


KINDS = ("early", "late")


def asked(name: str, places: tuple[Path, Path], out: Path, more: str = ""):
    where = places if "fit" in options.positional(name) else places[1:]
    return cellflow_(
        name.replace("_", "-"), *where, *ASKED[name][0].split(), *more.split(), "--out", out
    )


def told(name: str, places: tuple[Path, Path]) -> tuple[anndata.AnnData, pd.DataFrame | None]:
    """Cells and table by the function itself."""
    adata, fit = anndata.read_h5ad(places[1]), cf.load(places[0])
    given = [fit] if "fit" in options.positional(name) else []
    given += [POSITIONAL[name]] if name in POSITIONAL else []
    return adata, getattr(tl, name)(adata, *given, **ASKED[name][1])


@pytest.mark.parametrize("name", [*answers.TABLES, *answers.CHANCES])
def test_table_is_that_of_the_function(name, places, tmp_path):
    out = tmp_path / "table.csv"
    result = asked(name, places, out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(f", saved to {out}\n")
    adata, table = told(name, places)
    if name in answers.CHANCES:
        entropy = f"{name.removesuffix('s')}_entropy"
        table = adata.obsm[name].assign(**{entropy: adata.obs[entropy]})
        assert "mean" in result.stdout
    named = table.index.dtype.kind != "i"
    found = pd.read_csv(out, index_col=0 if named else None)
    pd.testing.assert_frame_equal(
        found, table, check_names=False, check_index_type=False, rtol=1e-5
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_cells_have_what_the_function_writes(name, places, tmp_path):
    result = asked(name, places, tmp_path / "new.h5ad")
    assert (result.exit_code, result.stderr) == (0, "")
    found, want = anndata.read_h5ad(tmp_path / "new.h5ad"), told(name, places)[0]
    pd.testing.assert_frame_equal(found.obs, want.obs, rtol=1e-5)
    assert found.uns.keys() == want.uns.keys()
    assert set(found.obsm) == set(want.obsm)
    for key in want.obsm:
        np.testing.assert_allclose(
            np.asarray(found.obsm[key]), np.asarray(want.obsm[key]), rtol=1e-5
        )
    np.testing.assert_array_equal(found.X, want.X)


def test_drivers_by_the_gradient_of_a_fit(places, tmp_path):
    out = tmp_path / "table.csv"
    result = asked("drivers", places, out, f"--method gradient --fit {places[0]}")
    assert (result.exit_code, result.stderr) == (0, "")
    adata = anndata.read_h5ad(places[1])
    want = tl.drivers(adata, "early", method="gradient", fit=cf.load(places[0]))
    np.testing.assert_allclose(pd.read_csv(out, index_col=0), want, rtol=1e-5)


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_and_options_are_those_of_the_function(name):
    parameters = inspect.signature(getattr(tl, name)).parameters.values()
    words = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert options.positional(name) == words
    assert list(options.arguments(name)) == keywords
    assert all(argument.text for argument in options.arguments(name).values())
    assert inspect.getdoc(getattr(tl, name)).startswith(options.summary(name))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("velocity {fit} {cells} --out {tmp}/a.csv", "a.csv' is no .h5ad file."),
        ("perturb {fit} {cells} --out {tmp}/a.csv", "Missing argument 'GENE...'"),
        ("perturb {fit} {cells} g0 g9 --out {tmp}/a.csv", "GENE...: got 'g9', expected one of"),
        ("perturb {fit} {cells} g0 --change off --out {tmp}/a.csv", "--change: got 'off'"),
        ("drivers {cells} early --method slope --out {tmp}/a.csv", "--method: got 'slope'"),
        ("drivers {cells} early --method gradient --out {tmp}/a.csv", "--fit: got None"),
        ("ancestors {fit} {cells} --start 2 --out {tmp}/a.csv", "--start: got 2, expected an ear"),
        ("composition {fit} {cells} --label-key x --out {tmp}/a.csv", "--label-key: got 'x'"),
        ("outlier-score {cells} --reference half --out {tmp}/a.h5ad", "--reference: got object"),
    ],
)
def test_bad_input_is_one_line(line, message, places, tmp_path):
    names = {"fit": places[0], "cells": places[1], "tmp": tmp_path}
    result = cellflow_(*line.format(**names).split())
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
