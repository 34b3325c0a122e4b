"""Conditions read out of an AnnData: columns of obs, doses, embeddings, controls."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellflow import tl
from cellflow.cli.commands import main
from cellflow.conditions import Categorical, Continuous
from cellflow.pp.conditions import ConditionKeys
from cellflow.pp.reading import Reading, read

DRUGS = ("DMSO", "A", "B", "A+B")


def cells(n: int = 240) -> ad.AnnData:
    rng = np.random.default_rng(0)
    drug = rng.choice(DRUGS, n)
    obs = pd.DataFrame(
        {
            "day": rng.choice([0.0, 1.0, 2.0], n),
            "drug": drug,
            "dose": np.where(drug == "DMSO", np.nan, rng.choice([0.5, 2.0], n)),
            "hours": rng.choice([1.0, 10.0], n),
            "donor": pd.Categorical(rng.choice([1, 2], n)),
        },
        index=[f"c{k}" for k in range(n)],
    )
    x = rng.normal(size=(n, 3)).astype(np.float32)
    table = {"A": np.array([1.0, 0.0]), "B": np.array([0.0, 1.0]), "C": np.array([1.0, 1.0])}
    return ad.AnnData(obs=obs, obsm={"X_pca": x}, uns={"drugs": table})


def course_of(adata: ad.AnnData, key, **how):
    return read(adata, Reading("day", conditions=ConditionKeys(key, **how)))


def test_columns_become_covariates_and_cells_keep_their_conditions() -> None:
    adata = cells()
    how = {"covariates": {"hours": "log"}, "control": "DMSO", "nuisance": "donor"}
    course, index = course_of(adata, ["drug", "hours", "donor"], **how)
    known = course.conditions
    drug, hours, donor = known.covariates
    assert drug == Categorical("drug", ("A", "B"), none="DMSO")
    assert isinstance(hours, Continuous) and hours.log
    assert donor.levels == ("1", "2")
    assert known.nuisance == ("donor",)
    assert known.values[known.control]["drug"] == "DMSO"
    for s, rows in zip(course.snapshots, index.rows, strict=True):
        for code, (_, row) in zip(s.condition.tolist(), adata.obs.iloc[rows].iterrows()):
            value = known.values[code]
            assert (value["drug"], value["hours"]) == (row["drug"], row["hours"])
            assert value["donor"] == str(row["donor"])


def test_doses_and_embeddings_of_levels() -> None:
    adata = cells()
    course, index = course_of(adata, "drug", covariates={"drug": "dose"}, control="DMSO")
    known = course.conditions
    assert known.texts == (*("A:0.5", "A:0.5+B:0.5", "A:2", "A:2+B:2", "B:0.5", "B:2", "DMSO"),)
    drug, dose = adata.obs.iloc[index.rows[0][0]][["drug", "dose"]]
    told = drug if drug == "DMSO" else dict.fromkeys(drug.split("+"), dose)
    assert known.code(told) == int(course.snapshots[0].condition[0])
    adata.obs["text"] = [known.texts[c] for c in codes_of(course, index, len(adata))]
    other, _ = course_of(adata, "text", covariates={"text": "doses"}, control="DMSO")
    assert other.conditions.texts == known.texts
    for table in ("drugs", adata.uns["drugs"], pd.DataFrame(adata.uns["drugs"]).T):
        course, _ = course_of(adata, "drug", covariates={"drug": table}, control="DMSO")
        (drug,) = course.conditions.covariates
        assert drug.levels == ("A", "B", "C")
        assert drug.embedding == ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


def codes_of(course, index, n: int) -> np.ndarray:
    codes = np.zeros(n, dtype=int)
    for s, rows in zip(course.snapshots, index.rows, strict=True):
        codes[rows] = s.condition.numpy()
    return codes


def test_a_level_with_a_plus_is_one_and_numbers_can_be_categories() -> None:
    adata = cells()
    adata.obs["type"] = np.where(adata.obs["hours"] > 1, "CD4+", "CD8+")
    assert course_of(adata, "type")[0].conditions.covariates[0].levels == ("CD4+", "CD8+")
    made = course_of(adata, "hours", covariates={"hours": "categories"})[0].conditions
    assert made.covariates[0].levels == ("1.0", "10.0")


@pytest.mark.parametrize(
    ("key", "how", "error"),
    [
        ("drog", {}, "Did you mean 'drug'"),
        ("dose", {}, "without a number"),
        ("absent", {}, "a label in every cell"),
        ("drug", {"control": "PBS"}, "control"),
        (["drug", "donor"], {"control": {"drug": "DMSO", "donor": "3"}}, "DMSO, 3"),
        ("drug", {"covariates": {"dose": "log"}}, "covariates"),
        ("drug", {"covariates": {"drug": "drogs"}}, "Did you mean 'drugs'"),
        ("drug", {"covariates": {"drug": {"A": [1.0]}}, "control": "DMSO"}, "covariates"),
        (["drug", "donor"], {"across": "batch"}, "across"),
        (None, {"control": "DMSO"}, "condition_key"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(key, how, error) -> None:
    adata = cells()
    adata.obs["absent"] = pd.Series([None, *["A"] * (len(adata) - 1)], index=adata.obs_names)
    with pytest.raises(ValueError, match=error):
        course_of(adata, key, **how)


def test_a_fit_keeps_its_conditions_and_says_what_is_left_out() -> None:
    adata = cells()
    late = (adata.obs["drug"] != "A") | (adata.obs["day"] == 2.0)
    how = {"time_key": "day", "steps": 2, "method": "otcfm", "progress": False}
    fit = tl.fit(adata[late], condition_key="drug", control="DMSO", **how)
    assert fit.course.conditions.texts == ("A", "A+B", "B", "DMSO")
    assert fit.origin["condition_key"] == ["drug"]
    with pytest.warns(UserWarning, match="conditions A: .* left out"):
        tl.fit(adata[late], condition_key="drug", **how)


def test_the_command_line_takes_several_columns(tmp_path) -> None:
    from click.testing import CliRunner

    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    words = ["fit", str(tmp_path / "cells.h5ad"), "--time-key", "day", "--steps", "2", "-q"]
    words += ["--condition-key", "drug", "--condition-key", "donor", "--nuisance", "donor"]
    words += ["--control", "DMSO"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "fit")])
    assert done.exit_code == 0, done.output
