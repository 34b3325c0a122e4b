"""The sweep over diffusions, against processes whose diffusion is known and by invariance."""

from __future__ import annotations

import json
import math

import matplotlib

matplotlib.use("Agg")

import anndata
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from cellflow import SF2M, TimeCourse, datasets, pl, pp
from cellflow.batches import Batching
from cellflow.evaluate import SigmaRow, SigmaSweep, sigma_sweep, without_times
from cellflow.methods import MMFM, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import BrownianBridge
from cellflow.plans import PairPlan
from cellflow.training.cells import natural_sigma
from cli_files import cellflow_, write_cells

F64 = torch.float64
QUICK = {"seeds": 2, "n_cells": 60, "progress": False}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def diffusing(sigma: float, *, times=(0.0, 1.0, 3.0), n: int = 300, seed: int = 0) -> TimeCourse:
    """Brownian motion from (nearly) one point: independent cells at each time."""
    g = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(n, 2, generator=g, dtype=F64)

    return TimeCourse.from_arrays(
        [0.02 * normal() + sigma * math.sqrt(t) * normal() for t in times], times
    )


@pytest.fixture(scope="module")
def course() -> TimeCourse:
    cells, _ = pp.course(datasets.embryoid()[::9], time_key="stage", n_dims=3, dtype=F64)
    return cells


# --- truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.2, 3.0])
def test_the_diffusion_of_brownian_motion_is_found(sigma):
    # From a point, the cells at the end are the noise itself: a bridge of too small a diffusion
    # leaves each on a straight line, with deviation t/T instead of its root.
    tried = [sigma * 2 ** (k / 2) for k in range(-4, 5)]
    found = sigma_sweep(diffusing(sigma), sigmas=tried, seeds=2, n_cells=200, progress=False)
    assert sigma / 2.1 < found.best < sigma * 2.1
    curve = found.curve()
    least, errors = min(curve), found.errors()
    assert curve[0] - least > 2 * errors[0]
    assert curve[-1] - least > 2 * errors[-1]
    low, high = found.span()
    assert tried[0] < low <= found.best <= high < tried[-1]


def test_cells_between_two_points_are_a_bridge():
    n, sigma = 2000, 0.7

    def at(x: float) -> torch.Tensor:
        return torch.full((n, 1), x, dtype=F64)

    # From 0 at time 0 to 8 at time 4: at time 1 the bridge has mean 2 and variance σ² · 1 · 3 / 4.
    points = TimeCourse.from_arrays([at(0.0), at(2.0), at(8.0)], [0.0, 1.0, 4.0])
    found = sigma_sweep(
        points, sigmas=[sigma], metrics=["w1"], seeds=1, n_cells=n, progress=False,
        method=lambda s: SF2M(s, coupling="independent"),
    )  # fmt: skip
    std = sigma * math.sqrt(0.75)
    # 4 standard errors of the mean of |z|.
    error = 4 * std * math.sqrt((1 - 2 / math.pi) / n)
    assert found.curve()[0] == pytest.approx(std * math.sqrt(2 / math.pi), abs=error)


def test_mass_grows_along_the_way():
    n = 50
    x = torch.tensor([[-10.0], [10.0]], dtype=F64).repeat_interleave(n, 0)

    def coupling(source, target) -> PairPlan:
        rows, cols = source.x[:, 0].argsort(), target.x[:, 0].argsort()
        growth = math.log(3) * (source.x[:, 0] > 0)
        return PairPlan(
            cost=0.0, rows=rows, cols=cols, mass=torch.full((2 * n,), 0.5 / n, dtype=F64),
            size=(2 * n, 2 * n), source_growth=growth, target_growth=0 * growth,
        )  # fmt: skip

    truth = torch.full((2 * n, 1), -10.0, dtype=F64)
    found = sigma_sweep(
        TimeCourse.from_arrays([x, truth, x], [0.0, 1.0, 4.0]),
        lambda s: FlowMatching(coupling, BrownianBridge(s)),
        sigmas=[1e-6], metrics=["w1"], seeds=1, progress=False,
    )  # fmt: skip
    # A quarter of the way, the cells at 10 weigh 3 ** ¼ times the others.
    assert found.curve()[0] == pytest.approx(20 * 3**0.25 / (1 + 3**0.25), rel=1e-4)


def test_fitted_dynamics_tell_diffusions_apart():
    sigma = 1.0

    def small(size: float) -> FlowMatching:
        return SF2M(size, net=MLPConfig(32, 2), batching=Batching(128, 100))

    found = sigma_sweep(
        diffusing(sigma), small, sigmas=[sigma, 6 * sigma], steps=60, seeds=2,
        n_cells=100, progress=False,
    )  # fmt: skip
    assert (found.learned, found.best) == (True, sigma)
    assert found.curve()[1] > 2 * found.curve()[0]
    assert len({r.value for r in found.rows}) == len(found.rows) == 2 * 2 * 2


# --- invariance ------------------------------------------------------------------------------


def test_data_and_time_may_be_in_any_unit(course):
    one = QUICK | {"seeds": 1}
    here = sigma_sweep(course, **one)
    large = sigma_sweep(course.map(lambda x: 8 * x), **one)
    slow = sigma_sweep(course.retimed([16 * t for t in course.times]), **one)
    for other, factor in ((large, 8.0), (slow, 1 / 4)):
        assert other.natural == pytest.approx(factor * here.natural, rel=1e-12)
        assert other.sigmas == pytest.approx([factor * s for s in here.sigmas], rel=1e-12)
        assert other.best == pytest.approx(factor * here.best, rel=1e-12)
        assert other.default == pytest.approx(factor * here.default, rel=1e-12)
    assert large.curve("w1") == pytest.approx([8 * v for v in here.curve("w1")], rel=1e-6)
    assert slow.curve() == pytest.approx(here.curve(), rel=1e-6)


def test_each_seed_scores_against_half_of_the_cells_left_out():
    """Cells that stay at 0 are as far from half of eight numbers as their mean size is."""
    left_out = 10 + 2.0 ** torch.arange(8, dtype=torch.float64)  # all halves differ
    nothing = torch.zeros(8, 1, dtype=torch.float64)
    course = TimeCourse.from_arrays([nothing, left_out[:, None], nothing], [0.0, 1.0, 2.0])
    rows = sigma_sweep(course, sigmas=[1e-9], seeds=5, metrics=("w1",), progress=False).rows
    halves = [float(half.mean()) for half in torch.combinations(left_out, 4)]
    found = [min(halves, key=lambda half: abs(half - row.value)) for row in rows]
    assert [row.value for row in rows] == pytest.approx(found, rel=1e-6)
    assert len(set(found)) > 1


def test_sweep_is_decided_by_its_seed(course):
    one = sigma_sweep(course, sigmas=[0.1], **QUICK)
    assert one == sigma_sweep(course, sigmas=[0.1], **QUICK)
    values = {(r.held_out, r.metric, r.value) for r in one.rows}
    assert len(values) == len(one.rows) == 3 * 2 * 2  # seeds differ
    torch.manual_seed(5)
    assert one == sigma_sweep(course, sigmas=[0.1], **QUICK)


def test_sweep_does_not_depend_on_excluded_times(course):
    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return 1e6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=F64)

    k, time = 2, course.times[2]
    xs = [s.x for s in course.snapshots]
    other = TimeCourse.from_arrays([*xs[:k], spoiled(xs[k]), *xs[k + 1 :]], course.times)
    options = QUICK | {"sigmas": [0.05, 0.2]}
    found = sigma_sweep(without_times(course, [time]), **options)
    assert found == sigma_sweep(without_times(other, [time]), **options)
    assert found == sigma_sweep(course.without(k), **options)
    assert found.held_out == [course.times[1], course.times[3]]
    options["n_cells"] = 10  # outliers are slow to couple
    assert sigma_sweep(course, **options) != sigma_sweep(other, **options)


def test_the_door_excludes_labels_and_numbers():
    cells = datasets.embryoid()[::9].copy()
    options = QUICK | {"time_key": "stage", "n_dims": 3, "whiten": True, "sigmas": [0.05, 0.2]}
    before = cells.copy()
    want = pp.suggest_sigma(cells, exclude=["day 6-9"], **options)
    assert want.held_out == [13.5, 19.5]
    np.testing.assert_array_equal(cells.obsm["X_pca"], before.obsm["X_pca"])
    chosen = (cells.obs["stage"] == "day 6-9").to_numpy()
    cells.obsm["X_pca"][chosen] = 1e6 * np.random.default_rng(0).normal(size=(chosen.sum(), 1))
    for same in ([7.5], ["7.5"], ["day 7.5"]):
        assert pp.suggest_sigma(cells, exclude=same, **options) == want
    # Components of expression, and scales, come from the cells that are looked at.
    cells = anndata.AnnData(cells.obsm["X_pca"][:, :4], cells.obs)
    options |= {"use_rep": "X", "n_dims": 2}
    found = pp.suggest_sigma(cells, exclude=[7.5], **options)
    assert found == pp.suggest_sigma(cells[~chosen], **options)


# --- without an answer -----------------------------------------------------------------------


def test_two_time_points_give_the_default():
    two = diffusing(1.0).without(1)
    found = sigma_sweep(two, progress=False)
    assert found.rows == ()
    assert found.best == found.default == SF2M().scaled_to(two).path.sigma
    assert found.natural == natural_sigma(two)
    assert found.span() == (found.default, found.default)
    assert "no time point lies between two others" in str(found)
    with pytest.raises(ValueError, match="`sweep`: got no rows"):
        pl.sigma(found)


BAD = [
    ({"sigmas": []}, "`sigmas`: got none"),
    ({"sigmas": [0.0]}, "`sigmas`: got 0"),
    ({"sigmas": [math.nan]}, "`sigmas`: got nan"),
    ({"metrics": []}, "`metrics`: got none"),
    ({"metrics": ["w3"]}, "`metrics`: got 'w3'"),
    ({"n_cells": 3}, "`n_cells`: got 3"),
    ({"seeds": 0}, "`seeds`: got 0"),
    ({"steps": 0}, "`steps`: got 0"),
    ({"method": MMFM}, "`method`: got 'mmfm'.*steps=1000"),
]


@pytest.mark.parametrize(("options", "text"), BAD)
def test_bad_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        sigma_sweep(diffusing(1.0, n=10), progress=False, **options)


def test_bad_excluded_times_are_named():
    with pytest.raises(ValueError, match="`exclude`: got 2, expected some of 0, 1, 3"):
        without_times(diffusing(1.0, n=10), [2.0])
    with pytest.raises(ValueError, match="`exclude`: got 2 of 3 time points"):
        without_times(diffusing(1.0, n=10), [0.0, 1.0])


def test_one_excluded_time_is_a_list_of_one():
    with pytest.raises(TypeError, match=r"`exclude`: got 'day 6-9', expected a list"):
        pp.suggest_sigma(datasets.embryoid(), time_key="stage", exclude="day 6-9", progress=False)


# --- the result ------------------------------------------------------------------------------


@pytest.fixture
def sweep() -> SigmaSweep:
    """Means by energy 2, 1.5, 3; seed by seed the middle is less by 0 and 1, and by 1 and 2."""
    values = {0.1: ((1.0, 1.0), (3.0, 3.0)), 0.2: ((1.0, 1.0), (2.0, 2.0)), 0.4: ((2, 2), (4, 4))}
    rows = [
        SigmaRow(sigma, day, seed, metric, float(v) * (1 if metric == "energy" else sigma))
        for sigma, by_seed in values.items()
        for seed, by_day in enumerate(by_seed)
        for day, v in zip((2.0, 5.0), by_day, strict=True)
        for metric in ("energy", "w1")
    ]
    return SigmaSweep(tuple(rows), natural=1.0, default=0.1)


def test_means_and_errors(sweep):
    assert sweep.sigmas == [0.1, 0.2, 0.4]
    assert sweep.held_out == [2.0, 5.0]
    assert sweep.to_frame().groupby(["metric", "sigma"]).value.mean()["energy", 0.4] == 3.0
    assert sweep.curve() == sweep.curve(held_out=2.0) == [2.0, 1.5, 3.0]
    assert sweep.best == 0.2
    assert sweep.best_by("w1") == 0.1
    # Differences to the middle: 0 and 1, 0 and 0, 1 and 2.
    assert sweep.errors() == pytest.approx([0.5**0.5, 0.0, 0.5**0.5])
    assert sweep.span() == (0.1, 0.2)
    text = str(sweep)
    assert "best sigma 0.2 data units per √day (0.2 × natural)" in text
    assert "The default is as good." in text
    assert "by w1: 0.1" in text
    assert "smallest" not in text
    with pytest.raises(ValueError, match="`metric`: got 'w2'"):
        sweep.curve("w2")


def test_sigma_figure_shows_the_curve(sweep):
    given = plt.subplots()[1]
    assert pl.sigma(sweep, ax=given) is given
    with pytest.raises(TypeError, match="`ax`: got str"):
        pl.sigma(sweep, ax="here")
    ax = pl.sigma(sweep)
    assert ax.figure is not given.figure
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["mean"].get_ydata(), [2.0, 1.5, 3.0])
    np.testing.assert_allclose(lines["day 5"].get_xdata(), sweep.sigmas)
    assert lines["least, 0.2"].get_xdata() == [0.2]
    assert lines["default, 0.1"].get_xdata() == [0.1, 0.1]
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "diffusion (data units / √day)"
    assert "least, 0.1" in {line.get_label() for line in pl.sigma(sweep, metric="w1").get_lines()}
    with pytest.raises(TypeError, match="`sweep`: got int, expected a SigmaSweep"):
        pl.sigma(3)
    with pytest.raises(ValueError, match="`metric`: got 'w2'"):
        pl.sigma(sweep, metric="w2")


def test_suggest_sigma_command_prints_the_sweep_of_the_door(tmp_path):
    file = write_cells(tmp_path / "cells.h5ad")
    keys = ["suggest-sigma", file, "--time-key", "stage", "--dims", 3, "--seeds", 1, "-q"]
    out, figure = tmp_path / "a.json", tmp_path / "a.png"
    result = cellflow_(*keys, "--exclude", "day 6-9", "--json", out, "--figure", figure)
    assert result.exit_code == 0, result.stderr
    want = pp.suggest_sigma(
        anndata.read_h5ad(file), time_key="stage", n_dims=3, exclude=[7.5], seeds=1, progress=False
    )
    assert result.stdout == f"{want}\n"
    assert json.loads(out.read_text())["rows"][0]["value"] == want.rows[0].value
    assert figure.stat().st_size > 1000
    result = cellflow_(*keys, "--exclude", "8")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: --exclude: got 8, expected some of 1.5, 7.5")
