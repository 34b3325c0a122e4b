"""A folder of a fit that was edited: loading says what is wrong, and returns nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cellflow as cf
from cellflow import TimeCourse
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.several import fit_members
from cellflow.training import FitOptions

WEIGHT = "velocity/layers.0.weight"


def fact(change: Callable[[dict], object], file: str = "fit.json") -> Callable[[Path], None]:
    """Return what edits the facts of a folder."""

    def edit(folder: Path) -> None:
        facts = json.loads((folder / file).read_text())
        change(facts)
        (folder / file).write_text(json.dumps(facts))

    return edit


def tensor(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Return what edits the tensors of a folder."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "tensors.safetensors")
        change(tensors)
        save_file(tensors, folder / "tensors.safetensors", {"facts": "{}"})

    return edit


def text(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "fit.json").write_text(content) and None


def drop_a_time(facts: dict) -> None:
    facts["times"].pop()
    facts["labels"].pop()
    for column in facts["clock"].values():
        column.pop()


#: What is edited: how, and a word of what is said.
EDITS = {
    "NaN weights": (tensor(lambda t: t[WEIGHT].fill_(torch.nan)), "layers.0.weight"),
    "infinite weights": (tensor(lambda t: t[WEIGHT].fill_(torch.inf)), "layers.0.weight"),
    "whole weights": (tensor(lambda t: t.update({WEIGHT: t[WEIGHT].long()})), "layers.0.weight"),
    "NaN cells": (tensor(lambda t: t["x/0"].fill_(torch.nan)), "NaN or infinite"),
    "NaN mean": (tensor(lambda t: t["preprocessing/mean"].fill_(torch.nan)), "preprocessing/mean"),
    "zero scales": (tensor(lambda t: t["preprocessing/scale"].fill_(0)), "scales from 0 to 0"),
    "text for a centre": (fact(lambda f: f["units"].update(centre=["a", 0.0])), "units.centre"),
    "zero scale of units": (fact(lambda f: f["units"].update(scale=0.0)), "units.scale"),
    "zero span of units": (fact(lambda f: f["units"].update(span=0.0)), "not a readable fit"),
    "negative span": (fact(lambda f: f["units"].update(span=-1.0)), "units.span"),
    "NaN centre": (fact(lambda f: f["units"].update(centre=[0.0, float("nan")])), "units"),
    "other centre": (fact(lambda f: f["units"].update(centre=[0.0])), "size mismatch"),
    "other mean": (tensor(lambda t: t.update({"preprocessing/mean": torch.zeros(3)})), "mean"),
    "other cells": (
        tensor(lambda t: t.update({f"x/{k}": torch.zeros(20, 3) for k in range(3)})),
        "preprocessing from 2 to 2 dimensions",
    ),
    "a time dropped": (fact(lambda f: f["times"].pop()), "not a readable fit"),
    "a time dropped everywhere": (fact(drop_a_time), "'mass/2' belongs to nothing"),
    "a time moved": (fact(lambda f: f["times"].__setitem__(2, 7.0)), "a clock of times"),
    "a time too large": (fact(lambda f: f["times"].__setitem__(2, 10**400)), "beyond 1e308"),
    "a name that leads out": (tensor(lambda t: t.update({"../a": torch.ones(1)})), "'../a'"),
    "unknown method": (fact(lambda f: f["method"].update(kind="Other")), "got 'Other'"),
    "unknown network": (fact(lambda f: f["method"]["net"].update(kind="Other")), "got 'Other'"),
    "history of text": (fact(lambda f: f["history"].update(step="a")), "history"),
    "uneven history": (fact(lambda f: f["history"]["step"].append(3)), "equal length"),
    "unit": (fact(lambda f: f.update(unit=7)), "`unit`: got int"),
    "format": (fact(lambda f: f.update(format="2")), "format '2'"),
    "no labels": (fact(lambda f: f["origin"].update(time_key="day")), "no labels in it"),
    "no facts": (text("[]"), "not a readable fit"),
    "deep facts": (text("[" * 100_000), "RecursionError"),
    "long number": (text("1" * 5000), "digits"),
}


def course() -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    return TimeCourse.from_arrays([torch.randn(20, 2, generator=g) + k for k in range(3)])


def method() -> FlowMatching:
    parts = {"net": MLPConfig(8, 2), "batching": Batching(16, 16), "clock": "distance"}
    return FlowMatching(Exact(), Straight(0.1), **parts)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    cells = course()
    prep = fit_preprocessing(cells.x, n_components=2, whiten=True)
    fit = method().fit(cells, steps=5, progress=False, preprocessing=prep)
    return fit.save(tmp_path_factory.mktemp("saved") / "fit")


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_fit_is_refused(edit, saved, tmp_path) -> None:
    folder = shutil.copytree(saved, tmp_path / "fit")
    assert cf.load(folder).velocity(0.5, course().x).isfinite().all()
    change, said = EDITS[edit]
    change(folder)
    with pytest.raises(ValueError, match=r"^`folder`: got .* expected ") as error:
        cf.load(folder)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.pop("seeds"),
        lambda f: f.update(seeds=3),
        lambda f: f.update(seeds=["../../fit", 1]),
        lambda f: f["seeds"].append(5),
        lambda f: f.pop("bootstrap"),
    ],
)
def test_an_edited_ensemble_is_refused(change, tmp_path) -> None:
    options = FitOptions(steps=3, progress=False)
    folder = fit_members(method(), course(), options, members=2, workers=1).save(tmp_path / "fit")
    assert len(cf.load(folder)) == 2
    fact(change, "ensemble.json")(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=r"^`folder`: got .* expected "):
        cf.load(folder)


@pytest.mark.parametrize(
    ("mean", "scale", "loadings"),
    [((3,), (2,), None), ((3,), (2,), (2, 3)), ((3, 1), (3,), None), ((), (), None)],
)
def test_a_map_of_other_shapes_is_refused(mean, scale, loadings) -> None:
    basis = None if loadings is None else torch.ones(loadings)
    with pytest.raises(ValueError, match="`preprocessing`: got a mean and a scale"):
        Preprocessing(torch.zeros(mean), torch.ones(scale), basis)
