"""Every option of the AnnData door reaches what it is for."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow import evaluate
from cellflow.batches import Batching
from cellflow.networks import MLPConfig

METHOD = cf.OTCFM(net=MLPConfig(16, 2), batching=Batching(32, 32))


def cells(labels, n: int = 40) -> anndata.AnnData:
    """Cells of three unequal dimensions, in random order, that move by one each label."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n * len(labels), 3)) * [1.0, 5.0, 0.2]
    x[:, 0] += np.repeat(np.arange(len(labels)), n)
    obs = pd.DataFrame(
        {"when": np.repeat(labels, n), "weight": rng.uniform(1, 9, n * len(labels))},
        index=[f"c{i}" for i in range(n * len(labels))],
    )
    out = anndata.AnnData(obs=obs, obsm={"X_pca": x})
    return out[rng.permutation(out.n_obs)].copy()


def fit(adata, **options):
    options = {"time_key": "when", "method": METHOD, "steps": 5, "progress": False} | options
    return cf.tl.fit(adata, **options)


@pytest.mark.parametrize(
    ("labels", "options", "true", "unit"),
    [
        (["a", "b"], {"time_map": {"a": 0, "b": 48}}, {"a": 0.0, "b": 48.0}, "day"),
        (["12h", "36h"], {}, {"12h": 12.0, "36h": 36.0}, "hour"),
        (["week 1", "week 3"], {}, {"week 1": 1.0, "week 3": 3.0}, "week"),
    ],
)
def test_velocities_are_at_the_times_that_the_fit_read(labels, options, true, unit) -> None:
    adata = cells(labels)
    out = fit(adata, **options)
    assert out.course.times == tuple(true.values())
    assert out.course.unit == unit
    cf.tl.velocity(adata, out)
    times = adata.obs["when"].map(true).to_numpy(dtype=float)
    direct = out.velocity(times, adata.obsm["X_pca"])
    np.testing.assert_allclose(adata.obsm["velocity_pca"], direct.numpy(), rtol=1e-12)
    assert adata.uns["velocity_fit"]["unit"] == f"data units per {unit}"


def test_velocities_of_some_labels_are_at_the_times_of_all() -> None:
    adata = cells(["a", "b", "c"])
    out = fit(adata, time_map={"a": 0, "b": 48, "c": 50})
    part = adata[adata.obs["when"] == "b"].copy()
    cf.tl.velocity(part, out)
    direct = out.velocity(48.0, part.obsm["X_pca"])
    np.testing.assert_allclose(part.obsm["velocity_pca"], direct.numpy(), rtol=1e-12)


def test_new_labels_are_read_in_the_unit_of_the_fit() -> None:
    out = fit(cells(["12h", "36h"]))
    adata = cells(["12h", "2 days"])
    with pytest.warns(UserWarning, match="^48 is outside the fit's times, 12 to 36: an extrapola"):
        cf.tl.velocity(adata, out)
    times = adata.obs["when"].map({"12h": 12.0, "2 days": 48.0}).to_numpy(dtype=float)
    with pytest.warns(UserWarning, match="^48 is outside the fit's times, 12 to 36: an extrapola"):
        direct = out.velocity(times, adata.obsm["X_pca"])
    np.testing.assert_allclose(adata.obsm["velocity_pca"], direct.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "options", "asked", "true"),
    [
        (["E7.5", "E8.5"], {}, "E7.6", 7.6),
        (["E7.5", "E8.5"], {}, "7.6", 7.6),
        (["E7.5", "E8.5"], {}, "192h", 8.0),
        (["E7.5", "E8.5"], {"unit": "hour"}, "E8", 192.0),
        (["12h", "36h"], {}, "day 1", 24.0),
        (["early", "late"], {"time_map": {"early": 0, "late": 5}}, "late", 5.0),
        (["early", "late"], {"time_map": {"early": 0, "late": 5}}, "day 3", 3.0),
    ],
)
def test_times_asked_for_may_be_labels(labels, options, asked, true, tmp_path) -> None:
    """The answer is that of the number, also for a fit that was saved and loaded."""
    adata = cells(labels)
    out = fit(adata, **options)
    out.save(tmp_path / "fit")
    want = cf.tl.interpolate(out, time=true)
    for one in (out, cf.load(tmp_path / "fit")):
        got = cf.tl.interpolate(one, time=asked)
        assert got.uns["interpolation"]["time"] == true
        assert set(got.obs["when"]) == {true}
        np.testing.assert_array_equal(got.obsm["X_pca"], want.obsm["X_pca"])
    by_label = cf.tl.simulate(adata, out, start=labels[0], end=asked)
    by_number = cf.tl.simulate(adata, out, start=out.course.times[0], end=true)
    assert by_label.times.tolist() == by_number.times.tolist()
    assert torch.equal(by_label.x, by_number.x)


@pytest.mark.parametrize(
    ("labels", "options", "asked", "message"),
    [
        (["E7.5", "E8.5"], {}, "soon", "`time`: got 'soon', expected a finite number of days, or"),
        (["E7.5", "E8.5"], {}, "P2", "`time`: got 'P2', beside 'E7.5' of the fit at day 7.5"),
        (["E7.5", "E8.5"], {"time_map": {"E7.5": 0, "E8.5": 1}}, "E8", "'E8', beside 'E7.5' of"),
        (["a", "b"], {"time_map": {"a": 0, "b": 1}}, "c", "The fit knows 'a', 'b'."),
    ],
)
def test_labels_that_the_fit_cannot_place_are_refused(labels, options, asked, message) -> None:
    out = fit(cells(labels), **options)
    with pytest.raises(ValueError, match=message):
        cf.tl.interpolate(out, time=asked)


def test_extrapolation_is_a_warning_of_one_sentence() -> None:
    adata = cells(["day 1", "day 2"])
    out = fit(adata)
    with pytest.warns(UserWarning, match="^2.5 is outside the fit's times, 1 to 2: an extrapolati"):
        cf.tl.interpolate(out, time=2.5)
    with pytest.warns(UserWarning, match="^0 is outside the fit's times, 1 to 2: an extrapolation"):
        cf.tl.simulate(adata, out, start="day 1", end=0)
    for labels, named in (
        (["day 0", "day 1", "day 3"], "0 and 3 are"),
        (["day 0", "day 3", "day 4"], "3 times are"),
    ):
        with pytest.warns(UserWarning, match=f"^{named} outside the fit's times, 1 to 2: an"):
            cf.tl.velocity(cells(labels), out)
    cf.tl.interpolate(out, time="48h")  # the last one: no warning, which would be an error here


@pytest.mark.parametrize("values", [[0.0, 6.0, 24.0], ["0", "6", "24"]], ids=["numbers", "text"])
def test_the_unit_of_plain_numbers_is_in_the_name_of_their_column_or_given(values) -> None:
    adata = cells(values)
    adata.obs["hours"] = adata.obs["when"]
    asked = {"time_key": "hours", "progress": False}
    named = fit(adata, time_key="hours").course
    assert (named.unit, named.times) == ("hour", (0.0, 6.0, 24.0))
    assert fit(adata, time_key="when").course.unit == "day"
    given = fit(adata, time_key="hours", unit="week").course
    assert (given.unit, given.times) == ("week", (0.0, 6.0, 24.0))
    table = cf.tl.holdout(adata, method=METHOD, steps=1, seeds=1, **asked, unit="minute")
    assert (table.unit, table.held_out) == ("minute", [6.0])
    assert str(cf.tl.couple(adata, **asked)).startswith("times in hours")
    assert str(cf.tl.couple(adata, **asked, unit="week")).startswith("times in weeks")
    sweep = cf.pp.suggest_sigma(adata, **asked, unit="week", sigmas=[1.0], seeds=1, n_cells=20)
    assert sweep.unit == "week"


def test_labels_are_converted_to_the_unit_that_is_given() -> None:
    adata = cells(["day 1", "day 2"])
    out = fit(adata, unit="hour")
    assert (out.course.unit, out.course.times) == ("hour", (24.0, 48.0))
    cf.tl.velocity(adata, out)
    x, there = adata.obsm["X_pca"], (adata.obs["when"] == "day 2").to_numpy()
    direct = out.velocity(48.0, x[there])
    np.testing.assert_allclose(adata.obsm["velocity_pca"][there], direct.numpy(), rtol=1e-12)


def test_masses_are_read_cell_by_cell() -> None:
    adata = cells(["day 1", "day 2"])
    out = fit(adata, mass_key="weight")
    for label, s in zip(["day 1", "day 2"], out.course.snapshots, strict=True):
        there = (adata.obs["when"] == label).to_numpy()
        np.testing.assert_array_equal(s.x.numpy(), adata.obsm["X_pca"][there])
        weight = adata.obs["weight"].to_numpy()[there]
        share = s.mass.numpy() / s.mass.numpy().sum()
        np.testing.assert_allclose(share, weight / weight.sum())
    assert fit(adata).course.snapshots[0].is_uniform


def test_the_checkpoint_is_written_and_resumed_from(tmp_path) -> None:
    adata, path = cells(["day 1", "day 2"]), tmp_path / "run.safetensors"
    fit(adata, checkpoint=path)
    assert path.is_file()
    with pytest.raises(ValueError, match="`checkpoint`: got .* differs in seed"):
        fit(adata, checkpoint=path, rng=1)


def test_cells_without_a_time_are_an_error_unless_dropped() -> None:
    adata = cells(["day 1", "day 2"])
    adata.obs.loc[adata.obs_names[:3], "when"] = np.nan
    with pytest.raises(ValueError, match="missing"):
        fit(adata)
    out = fit(adata, missing="drop")
    assert sum(len(s) for s in out.course.snapshots) == adata.n_obs - 3
    with pytest.raises(ValueError, match="missing"):
        cf.tl.holdout(adata, time_key="when", method=METHOD, steps=1, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"time": "index", "preprocess_on": "all", "whiten": False},
        {"time": "physical", "preprocess_on": "train", "whiten": True},
        {"time": "physical", "preprocess_on": "all", "whiten": True},
    ],
    ids=["index", "train", "all"],
)
def test_holdout_is_that_of_the_course(options) -> None:
    """Held out is a day far off the line of the others, so that each option changes the table."""
    adata = cells(["day 0", "day 1", "day 5"])
    adata.obsm["X_pca"][(adata.obs["when"] == "day 1").to_numpy(), 2] += 30
    settings = {"steps": 3, "seeds": 1, "progress": False}
    ours = cf.tl.holdout(adata, time_key="when", method=METHOD, **settings, **options)
    x, when = torch.from_numpy(adata.obsm["X_pca"]), adata.obs["when"]
    xs = [x[(when == f"day {t}").to_numpy()] for t in (0, 1, 5)]
    course = cf.TimeCourse.from_arrays(xs, [0.0, 1.0, 5.0])
    protocol = evaluate.HoldoutProtocol(**options)
    assert ours == evaluate.holdout(course, METHOD, protocol=protocol, **settings)
    assert ours != evaluate.holdout(course, METHOD, **settings)


def test_holdout_reads_the_first_dimensions_and_the_time_map() -> None:
    adata = cells(["a", "b", "c"])
    settings = {"steps": 3, "seeds": 1, "progress": False}
    times = {"a": 0, "b": 2, "c": 10}
    ours = cf.tl.holdout(
        adata, time_key="when", method=METHOD, n_dims=2, time_map=times, **settings
    )
    x, when = torch.from_numpy(adata.obsm["X_pca"][:, :2].copy()), adata.obs["when"]
    xs = [x[(when == label).to_numpy()] for label in times]
    course = cf.TimeCourse.from_arrays(xs, list(times.values()))
    assert ours == evaluate.holdout(course, METHOD, **settings)
