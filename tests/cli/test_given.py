"""Conditions on the command line."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest
import torch
from numpy.testing import assert_allclose

import cellflow
from cellflow import Snapshot, TimeCourse
from cellflow.conditions import Categorical, Conditions, Continuous
from cellflow.methods import OTCFM
from cellflow.networks import MLPConfig
from cellflow.simulate import open_trajectory
from cli_files import cellflow_

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
    words = ("--guidance", guidance) if guidance != 1 else ()
    given = ("--condition", "drug=A+B,dose=3", *words)
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
