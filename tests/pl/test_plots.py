"""Figures: what they draw is what they were given, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver, QuiverKey
from scipy.spatial import cKDTree

from cellflow import pl
from cellflow.evaluate import YARDSTICKS, HoldoutTable, Row
from cellflow.pl.trajectories import mean_and_band
from cellflow.pl.velocity import average
from cellflow.simulate import Trajectory
from cellflow.timecourse import Snapshot
from cellflow.training.trainer import History

DAYS = (0.0, 2.0, 5.0)


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3)) + np.repeat(np.arange(3), 30)[:, None]
    obs = pd.DataFrame(
        {
            "day": pd.Categorical(np.repeat([f"day {t:g}" for t in DAYS], 30)),
            "kind": pd.Categorical(np.tile(["a", "b", "c"], 30)),
            "depth": rng.normal(size=90),
        },
        index=[f"c{i}" for i in range(90)],
    )
    umap = x @ rng.normal(size=(3, 2))
    obsm = {"X_pca": x, "X_umap": umap, "velocity_umap": umap - 1, "velocity_pca": x}
    return AnnData(obs=obs, obsm=obsm)


@pytest.fixture
def trajectory() -> Trajectory:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 20, 3, generator=generator, dtype=torch.float64)
    return Trajectory(torch.arange(6.0, dtype=torch.float64), x)


@pytest.fixture
def table() -> HoldoutTable:
    rng = np.random.default_rng(1)
    methods = ("otcfm", "icfm", *YARDSTICKS)
    seeds = {m: 3 if m in ("otcfm", "icfm", "floor") else 1 for m in methods}
    return HoldoutTable(
        tuple(
            Row(t, m, seed, metric, (0.2 if m == "floor" else 1.0) + rng.random(), 30, 30)
            for t in (2.0, 5.0)
            for m in methods
            for seed in range(seeds[m])
            for metric in ("w1", "energy")
        )
    )


@pytest.fixture
def history() -> History:
    return History(
        step=[100, 200, 300],
        train_loss=[9.0, 4.0, 3.0],
        validation_loss=[8.0, 3.5, 3.7],
        learning_rate=[2e-3, 1e-3, 0.0],
        best_step=200,
    )


def dots(ax: Axes) -> list[np.ndarray]:
    """Positions of each group of dots."""
    return [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]


def render(ax: Axes) -> None:
    """Draw for good: some warnings come only then."""
    ax.figure.canvas.draw()


def test_everything_draws_on_the_given_axes(adata, trajectory, table, history):
    predicted = Snapshot(trajectory.x[2], 3.0)
    calls = {
        "trajectories": lambda ax: pl.trajectories(adata, trajectory, time_key="day", ax=ax),
        "interpolation": lambda ax: pl.interpolation(adata, predicted, time_key="day", ax=ax)[0],
        "holdout": lambda ax: pl.holdout(table, ax=ax),
        "history": lambda ax: pl.history(history, ax=ax),
        "velocity": lambda ax: pl.velocity(adata, ax=ax),
    }
    for name, call in calls.items():
        figure, ax = plt.subplots()
        assert call(ax) is ax, name
        assert ax.has_data(), name
        own = call(None)
        assert own.figure is not figure, name
        render(ax)
        render(own)
        with pytest.raises((TypeError, ValueError), match="`ax`: got"):
            call("here")


@pytest.mark.parametrize("basis", ["pca", "umap"])
def test_anndata_is_left_alone(adata, trajectory, basis):
    adata.uns["note"] = {"a": np.arange(3)}
    adata.obs["name"] = adata.obs["kind"].astype(object)  # scanpy would make it categorical
    before = adata.copy()
    for color in ("kind", "name"):
        pl.trajectories(
            adata, trajectory, time_key="day", color=color, basis=basis, palette="tab10"
        )
        pl.velocity(adata, basis=basis, color=color)
    pl.interpolation(adata, trajectory.x[1], time=2, time_key="day", basis=basis)
    pl.velocity(adata, basis=basis, color="depth")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm.keys()) == list(before.obsm.keys())
    for key in before.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])
    assert list(adata.uns) == ["note"]
    np.testing.assert_array_equal(adata.uns["note"]["a"], before.uns["note"]["a"])


@pytest.mark.parametrize("dims", [(0, 1), (2, 1)])
def test_trajectories_are_those_given(adata, trajectory, dims):
    ax = pl.trajectories(adata, trajectory, time_key="day", dims=dims)
    cells, starts = dots(ax)
    paths = trajectory.x.numpy()[..., list(dims)]
    np.testing.assert_allclose(cells, adata.obsm["X_pca"][:, list(dims)])
    np.testing.assert_allclose(starts, paths[0])
    casing, pieces = (c for c in ax.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(casing.get_segments(), paths.swapaxes(0, 1))
    assert len(pieces.get_segments()) == 20 * 5
    behind = ax.collections[0]
    np.testing.assert_array_equal(behind.get_array(), np.repeat(DAYS, 30))
    assert (behind.norm.vmin, behind.norm.vmax) == (0.0, 5.0)
    middles = behind.cmap(behind.norm(np.arange(5) + 0.5))
    np.testing.assert_allclose(pieces.get_colors(), np.tile(middles, (20, 1)))
    assert ax.get_xlabel() == f"PC {dims[0] + 1}"
    assert [a.get_ylabel() for a in ax.child_axes] == ["time (days)"]


def test_a_seed_chooses_trajectories(adata, trajectory):
    def starts(seed: int) -> np.ndarray:
        options = {"time_key": "day", "n_trajectories": 5, "generator": seed}
        return dots(pl.trajectories(adata, trajectory, **options))[-1]

    assert len(starts(0)) == 5
    np.testing.assert_array_equal(starts(0), starts(0))
    assert not np.array_equal(starts(0), starts(1))


def test_cells_without_a_time_are_grey(adata, trajectory):
    adata.obs["day"] = adata.obs["day"].where(np.arange(90) > 3)
    ax = pl.trajectories(adata, trajectory, time_key="day")
    assert [len(group) for group in dots(ax)] == [4, 86, 20]


def test_trajectories_over_cells_without_any_category(adata, trajectory):
    adata.obs["kind"] = pd.Categorical([np.nan] * 90, categories=["a"])
    ax = pl.trajectories(adata, trajectory, time_key="day", color="kind")
    render(ax)
    assert len(ax.lines) == 0


def test_interpolation_shows_the_cells_given(adata):
    x = adata.obsm["X_pca"]
    scores = {"W1": 1.234, "floor": 1.0}
    axes = pl.interpolation(adata, x[:7, :2] + 1, time=2.0, time_key="day", scores=scores)
    measured, predicted = axes
    for got, rows in zip(dots(measured), (slice(30), slice(60, 90), slice(30, 60)), strict=True):
        np.testing.assert_array_equal(got, x[rows, :2])
    np.testing.assert_array_equal(dots(predicted)[-1], x[:7, :2] + 1)
    assert (*measured.get_xlim(), *measured.get_ylim()) == predicted.axis()
    assert measured.get_title() == "day 2, measured"
    assert [t.get_text() for t in measured.get_legend().get_texts()] == ["day 0", "day 5"]
    assert "W1 1.23   floor 1" in [t.get_text() for t in predicted.texts]


def test_an_unsampled_day_has_one_panel_unless_told_the_truth(adata):
    x, uns = adata.obsm["X_pca"], {"interpolation": {"time": 3.0}}
    cells = AnnData(obs=adata.obs[[]][:5], obsm={"X_pca": x[:5]}, uns=uns)
    (only,) = pl.interpolation(adata, cells, time_key="day")
    assert only.get_title() == "day 3, interpolated"
    assert [t.get_text() for t in only.get_legend().get_texts()] == ["day 2", "day 5"]
    np.testing.assert_array_equal(dots(only)[-1], x[:5, :2])
    left, _ = pl.interpolation(adata, cells, time_key="day", truth=x[5:9])
    np.testing.assert_array_equal(dots(left)[-1], x[5:9, :2])


def test_holdout_draws_the_means_and_deviations_of_the_table(table):
    ax = pl.holdout(table, metric="energy")
    shown = [n for n in ("otcfm", "icfm", *YARDSTICKS) if n != "floor"]
    assert len(ax.containers) == len(shown) + 1
    for name, drawn in zip(shown, ax.containers, strict=False):
        values = [table.values(t, name, "energy") for t in (2.0, 5.0)]
        mean = np.array([np.mean(v) for v in values])
        np.testing.assert_allclose(drawn.lines[0].get_ydata(), mean)
        std = np.array([np.std(v, ddof=1) if len(v) > 1 else 0 for v in values])
        ends = np.array([s[:, 1] for s in drawn.lines[2][0].get_segments()])
        np.testing.assert_allclose(ends, np.stack([mean - std, mean + std], axis=1))
    floor = [np.mean(table.values(t, "floor", "energy")) for t in (2.0, 5.0)]
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[-1]]
    np.testing.assert_allclose(tops, floor)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "5"]
    assert len(ax.get_legend().get_texts()) == len(shown) + 1


def test_holdout_shows_a_model_below_the_floor():
    rows = [Row(1.0, "m", 0, "w1", 0.1, 5, 5), Row(1.0, "floor", 0, "w1", 2.0, 5, 5)]
    ax = pl.holdout(HoldoutTable(tuple(rows)))
    assert ax.get_ylim()[0] <= 0.1


def test_history_is_the_record(history):
    ax = pl.history(history)
    train, valid, kept = ax.lines
    np.testing.assert_array_equal(train.get_xydata(), [[100, 9], [200, 4], [300, 3]])
    np.testing.assert_array_equal(valid.get_ydata(), history.validation_loss)
    np.testing.assert_array_equal(kept.get_xydata(), [[200, 3.5]])
    assert ax.get_yscale() == "linear"
    rate = ax.figure.axes[1].lines[0]
    np.testing.assert_array_equal(rate.get_ydata(), history.learning_rate)


def test_history_over_decades_is_logarithmic_and_without_validation_has_one_loss(history):
    history.train_loss[0] = history.validation_loss[0] = 900.0
    assert pl.history(history).get_yscale() == "log"
    history.validation_loss = list(history.train_loss)
    assert [line.get_label() for line in pl.history(history).lines][0::2] == ["training"]


def test_grid_averages_are_exact_for_constant_and_odd_fields():
    side = np.linspace(-1, 1, 21)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    x, y, mean, near = average(xy, np.tile([3.0, -4.0], (len(xy), 1)), 11)
    assert mean.shape == (len(y), len(x), 2)
    np.testing.assert_allclose(mean[near], np.tile([3.0, -4.0], (near.sum(), 1)))
    assert near[:11, :11].all()
    *_, mean, _ = average(xy, xy, 11)
    np.testing.assert_allclose(mean[5, 5], 0, atol=1e-12)  # the middle, by symmetry


def test_arrows_are_the_velocity(adata):
    adata.obsm["velocity_umap"] = np.tile([2.0, 1.0], (90, 1))
    ax = pl.velocity(adata, kind="grid", n_grid=8, time_key="day")
    (arrows,) = (c for c in ax.collections if isinstance(c, Quiver))
    np.testing.assert_allclose(arrows.U, 2.0)
    np.testing.assert_allclose(arrows.V, 1.0)
    np.testing.assert_array_equal(dots(ax)[0], adata.obsm["X_umap"])


@pytest.mark.parametrize("kind", ["stream", "grid"])
def test_still_cells_draw_no_arrows(adata, kind):
    adata.obsm["velocity_umap"] = np.zeros((90, 2))
    ax = pl.velocity(adata, kind=kind)
    render(ax)
    assert len(ax.collections) == 1


@pytest.mark.parametrize("unit", ["unit of time", "hour"])
def test_arrows_have_a_scale_with_units(adata, unit):
    adata.obsm["velocity_umap"] = np.tile([2.0, 1.0], (90, 1))
    if unit == "hour":
        adata.uns["velocity_fit"] = {"unit": "data units per hour"}
    ax = pl.velocity(adata, kind="grid", n_grid=8)
    render(ax)
    (scale,) = (a for a in ax.artists if isinstance(a, QuiverKey))
    assert (scale.U, scale.text.get_text()) == (2.0, f"2 / {unit}")


@pytest.mark.parametrize("kind", ["stream", "grid"])
def test_there_are_no_arrows_where_no_cells_are(kind):
    rng = np.random.default_rng(0)
    # Two dense squares with nothing between them, and a lonely cell far above.
    xy = 3 * rng.random((4001, 2)) + np.repeat([[0, 0], [9, 0], [4, 11]], [2000, 2000, 1], axis=0)
    obsm = {"X_umap": xy, "velocity_umap": np.tile([1.0, 0.3], (len(xy), 1))}
    ax = pl.velocity(AnnData(obsm=obsm), kind=kind, n_grid=40)
    step = np.ptp(xy, axis=0).max() / 39
    if kind == "stream":
        (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
        drawn = np.concatenate(lines.get_segments())
    else:
        (arrows,) = (c for c in ax.collections if isinstance(c, Quiver))
        drawn = np.asarray(arrows.get_offsets())
    assert len(drawn) > 50
    # A node has cells within one step; the middle of its square is another 0.71 away.
    assert cKDTree(xy).query(drawn)[0].max() <= 1.71 * step
    assert drawn[:, 1].max() < 6


def test_a_few_cells_far_apart_have_streams_too():
    xy = np.stack(np.meshgrid(np.arange(8.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    obsm = {"X_umap": xy, "velocity_umap": np.tile([1.0, 0.0], (len(xy), 1))}
    ax = pl.velocity(AnnData(obsm=obsm))
    (lines,) = (c for c in ax.collections if isinstance(c, LineCollection))
    drawn = np.concatenate(lines.get_segments())
    assert np.ptp(drawn, axis=0).min() > 2


def test_means_and_bands_are_those_of_parallel_paths():
    rng = np.random.default_rng(0)
    shift, mass = rng.normal(size=11), np.ones((11, 8))
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    paths = shift[:, None, None] * across + np.arange(8.0)[:, None] * along
    mean, low, high = mean_and_band(paths, mass)
    np.testing.assert_allclose(mean, paths.mean(0))
    for edge, q in ((low, 0.1), (high, 0.9)):
        expected = np.quantile(shift, q, method="hazen")
        np.testing.assert_allclose(edge @ across, np.full(8, expected))
        np.testing.assert_allclose(edge @ along, np.arange(8.0), atol=1e-12)
    # A cell of mass three is three cells in the mean, and a cell of no mass is none.
    mass[0], mass[1] = 3.0, 0.0
    expected = paths[[0, 0, 0, *range(2, 11)]].mean(0)
    np.testing.assert_allclose(mean_and_band(paths, mass)[0], expected)


def test_trajectories_are_grouped_by_where_they_end(adata):
    adata.obs["kind"] = pd.Categorical(np.repeat(["a", "b", "c"], 30))
    centres = np.stack([adata.obsm["X_pca"][k : k + 30].mean(0) for k in (0, 30, 60)])
    ends = torch.as_tensor(np.repeat(centres[[0, 2]], [40, 3], axis=0))  # three are too few
    x = torch.linspace(-3, 0, 4, dtype=torch.float64)[:, None, None] + ends
    moved = Trajectory(torch.linspace(0, 5, 4, dtype=torch.float64), x)
    adata.uns["kind_colors"] = ["#102030", "red", "#405060"]
    ax = pl.trajectories(adata, moved, time_key="day", color="kind", n_trajectories=43)
    render(ax)
    _, mean = ax.lines  # after its casing
    np.testing.assert_allclose(mean.get_xydata(), x[:, :40, :2].mean(1))
    assert to_hex(mean.get_color()) == to_hex(ax.patches[0].get_facecolor()) == "#102030"
    pieces = [c for c in ax.collections if isinstance(c, LineCollection)][-1]
    inks = [to_hex(c) for c in pieces.get_colors()]
    assert inks == ["#102030"] * 40 * 3 + ["#405060"] * 3 * 3
    marks = dots(ax)[-1]
    np.testing.assert_allclose(marks, [x[0, 0, :2], x[0, 0, :2] + 1.2])  # days 0 and 2
    assert [a.get_ylabel() for a in ax.child_axes] == ["time (days)"]


@pytest.mark.parametrize("color", ["kind", "depth", "day"])
def test_columns_colour_cells(adata, color):
    ax = pl.velocity(adata, color=color)
    render(ax)
    assert {*map(tuple, np.concatenate(dots(ax)))} == {*map(tuple, adata.obsm["X_umap"])}
    if color == "kind":
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "c"]


def test_bad_input(adata, trajectory, table, history):
    x = adata.obsm["X_pca"]

    def draw(**options: object) -> Axes:
        return pl.trajectories(adata, trajectory, **{"time_key": "day"} | options)

    bad = [
        (lambda: pl.trajectories(adata, x, time_key="day"), TypeError, "`trajectory`: got ndarray"),
        (lambda: draw(time_key="dya"), ValueError, "mean 'day'"),
        (lambda: draw(time_key="kind"), ValueError, "obs.'kind'."),
        (lambda: draw(color="kin"), ValueError, "mean 'kind'"),
        (lambda: draw(n_trajectories=0), ValueError, "`n_trajectories`"),
        (lambda: pl.interpolation(adata, x, time_key="day"), ValueError, "`time`: got None"),
        (lambda: pl.holdout(table, metric="w3"), ValueError, "`metric`: got 'w3'"),
        (lambda: pl.holdout(HoldoutTable(())), ValueError, "`table`: got no rows"),
        (lambda: pl.holdout([1]), TypeError, "`table`: got list"),
        (lambda: pl.history(History()), ValueError, "an empty history"),
        (lambda: pl.history(3), TypeError, "`fit`: got int"),
        (lambda: pl.velocity(adata, kind="steam"), ValueError, "mean 'stream'"),
        (lambda: pl.velocity(adata, n_grid=1), ValueError, "`n_grid`"),
    ]
    for call, error, text in bad:
        with pytest.raises(error, match=text):
            call()
    del adata.obsm["velocity_umap"]
    with pytest.raises(ValueError, match=r"it has 'velocity_pca'.*tl.velocity"):
        pl.velocity(adata)
    assert plt.get_fignums() == [], "nothing is opened before arguments are known to be good"
