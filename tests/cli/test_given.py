"""Conditions on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose

import cellflow
from cellflow import Snapshot, TimeCourse, tl
from cellflow.conditions import Categorical, Conditions, Continuous
from cellflow.couplings import Exact
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig
from cellflow.simulate import open_trajectory
from cli_files import cellflow_

DRUGS = ["control", "control", "A", "B", "A+B"]

KNOWN = Conditions(
    (Categorical("drug", ("A", "B"), none="none"), Continuous("dose")),
    ({"drug": "none", "dose": 0.0}, {"drug": "A", "dose": 3.0}, {"drug": "A+B", "dose": 3.0}),
    control=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    x = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(0))
    parts = (Snapshot(x[k], float(k), condition=torch.arange(30) % 3) for k in range(2))
    fit = OTCFM(net=MLPConfig(8, 1)).fit(
        TimeCourse(tuple(parts), conditions=KNOWN), steps=5, progress=False
    )
    return fit.save(tmp_path_factory.mktemp("fits") / "fit")


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_commands_answer_for_a_condition(folder, tmp_path, guidance: float) -> None:
    bound = cellflow.load(folder).given({"drug": "A+B", "dose": 3.0}, guidance=guidance)
    given = ("--condition", "drug=A+B,dose=3", "--guidance", guidance)
    out = tmp_path / "cells.h5ad"
    result = cellflow_("interpolate", folder, "--time", 0.5, *given, "--out", out)
    assert result.exit_code == 0, result.stderr
    found = anndata.read_h5ad(out).obsm["X_state"]
    assert_allclose(found, bound.interpolate(0.5).x, atol=1e-6)
    result = cellflow_("simulate", folder, *given, "--n-times", 2, "--out", tmp_path / "way.zarr")
    assert result.exit_code == 0, result.stderr
    end = bound.simulate(bound.course.snapshots[0].x, [0.0, 1.0]).final
    assert_allclose(open_trajectory(tmp_path / "way.zarr").x[-1], end, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--condition", "drugs=A"), "--condition"),
        (("--condition", "drug=C"), "drug"),
        (("--condition", "dose=much"), "a number"),
        (("--guidance", 2), "--guidance wants one"),
        (("--condition", "drug=A", "--guidance", -1), "--guidance"),
    ],
)
def test_conditions_that_nobody_knows_are_one_line(folder, tmp_path, words, said) -> None:
    result = cellflow_("interpolate", folder, "--time", 1, *words, "--out", tmp_path / "a.h5ad")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_texts_name_conditions() -> None:
    assert KNOWN.read("dose=3, drug=A+B") == {"drug": "A+B", "dose": 3.0}
    assert KNOWN.read("drug=A") == {"drug": "A"}
    dosed = Conditions((Categorical("drug", ("A", "B"), doses=True),), ("A", {"A": 0.5, "B": 2.0}))
    for text in dosed.texts:
        assert dosed.text(dosed.read(text)) == text
        assert dosed.read(f"drug={text}") == dosed.read(text)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    """File of cells under drugs in two donors, and folder of a fit to them."""
    folder, rng = tmp_path_factory.mktemp("drugs"), np.random.default_rng(0)
    obs = pd.DataFrame({"drug": np.repeat(DRUGS, 20), "day": np.repeat([0.0, 1, 1, 1, 1], 20)})
    obs["donor"] = np.array(["1", "2"])[np.arange(100) % 2]
    obs.index = [f"c{k}" for k in range(100)]
    x = rng.normal(size=(100, 2)) + obs["drug"].str.contains("A").to_numpy()[:, None]
    cells = anndata.AnnData(obs=obs, obsm={"X_pca": x.astype(np.float32)})
    cells.write_h5ad(folder / "cells.h5ad")
    method = OTCFM(net=MLPConfig(8, 1))
    keys = {"time_key": "day", "condition_key": "drug", "control": "control", "method": method}
    tl.fit(cells, steps=3, progress=False, **keys).save(folder / "fit")
    return folder / "cells.h5ad", folder / "fit"


def test_predict_does_what_python_does(places, tmp_path) -> None:
    file, folder = places
    given = ("--condition", "A+B", "--condition", "drug=A", "--time", "0.5", "--guidance", 2)
    result = cellflow_("predict", folder, file, *given, "--out", tmp_path / "out.h5ad")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("40 cells under A+B and drug=A, saved to")
    found, fit = anndata.read_h5ad(tmp_path / "out.h5ad"), cellflow.load(folder)
    cells = anndata.read_h5ad(file)
    wanted = tl.predict(cells, fit, condition=["A+B", "A"], time=0.5, guidance=2.0)
    assert_allclose(found.obsm["X_pca"], wanted.obsm["X_pca"], rtol=1e-6)
    assert list(found.obs["condition"]) == list(wanted.obs["condition"])
    for words, said in (((), "--condition"), (("--condition", "C"), "drug")):
        result = cellflow_("predict", folder, file, *words, "--out", tmp_path / "no.h5ad")
        assert result.exit_code == 2
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_holdout_conditions_does_what_python_does(places, tmp_path) -> None:
    few = ("--steps", 2, "--seeds", 1, "--workers", 1, "--quiet", "--method", "otcfm")
    keys = ("--time-key", "day", "--control", "control", "--condition-key", "drug")
    keys += ("--condition-key", "donor", "--nuisance", "donor")
    written = ("--json", tmp_path / "rows.json", "--csv", tmp_path / "rows.csv")
    asked = ("--condition", "drug=A+B,donor=2", *few, *keys, *written)
    result = cellflow_("holdout-conditions", places[0], *asked)
    assert result.exit_code == 0, result.stderr
    table = tl.holdout_conditions(
        anndata.read_h5ad(places[0]),
        time_key="day",
        condition_key=["drug", "donor"],
        control="control",
        nuisance="donor",
        conditions=[{"drug": "A+B", "donor": "2"}],
        steps=2,
        seeds=1,
        workers=1,
        progress=False,
    )
    assert result.stdout == f"{table}\n"
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["value"] for row in rows] == [row.value for row in table.rows]
    assert len(pd.read_csv(tmp_path / "rows.csv")) == len(rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--condition-key", "drug"), "'--control'"),
        (("--control", "control"), "'--condition-key'"),
        (("--condition-key", "drug", "--control", "PBS"), "PBS"),
        (("--condition-key", "drug", "--control", "control", "--condition", "C"), "C"),
        (("--condition-key", "drug", "--control", "control", "--condition", "control"), "control"),
    ],
)
def test_holdouts_that_cannot_be_are_one_line(places, words, said) -> None:
    few = ("--time-key", "day", "--steps", 1, "--seeds", 1, "--quiet")
    result = cellflow_("holdout-conditions", places[0], *few, *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_cost_is_named_on_the_command_line(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    obs = pd.DataFrame({"day": np.repeat([0.0, 1.0], 20)}, index=[f"c{k}" for k in range(40)])
    anndata.AnnData(obs=obs, obsm={"X_pca": x}).write_h5ad(tmp_path / "cells.h5ad")
    words = ("--time-key", "day", "--method", "otcfm", "--steps", 3, "--cost", "cosine")
    result = cellflow_("fit", tmp_path / "cells.h5ad", *words, "--out", tmp_path / "fit")
    assert result.exit_code == 0, result.stderr
    assert cellflow.load(tmp_path / "fit").method.coupling == Exact(cost="cosine")
