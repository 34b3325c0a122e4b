"""Figures of cells draw what was written: differences, uncertainty, growth, fates, films."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from PIL import Image

from cellflow import pl
from cellflow.simulate import Trajectory

N = 60
COLORS = ["#102030", "#ff0000", "#405060"]


def cells(n: int = 3) -> AnnData:
    """Cells on a plane, of `n` kinds and fates, with what the tools write into cells."""
    rng, names = np.random.default_rng(0), [f"type {k}" for k in range(n)]
    kind = pd.Categorical(np.resize(names, N), categories=names)
    obs = pd.DataFrame({"day": np.repeat([0.0, 1.0, 2.0], N // 3), "kind": kind})
    obs.index = [f"c{i}" for i in range(N)]
    for column in ("flow_difference", "velocity_uncertainty"):
        obs[column] = rng.random(N)
    obs["growth"] = rng.normal(size=N)
    obs.loc["c3", ["flow_difference", "velocity_uncertainty", "growth"]] = np.nan
    x = rng.normal(size=(N, 3))
    out = AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(N, 2)), "X_pca": x})
    out.obsm["fates"] = pd.DataFrame(rng.dirichlet(np.ones(n), N), out.obs_names, names)
    out.obsm["fates"].iloc[5] = np.nan
    out.uns["fates"] = {"label_key": "kind"}
    times = np.arange(float(n))
    p = np.append(np.linspace(0.01, 1, n), 0.02)
    out.uns["comparison"] = pd.DataFrame({"time": [*times, np.nan], "difference": 1.0, "p": p})
    out.uns["comparison_fit"] = {"conditions": np.array(["drug", "none"]), "unit": "hour"}
    out.uns["uncertainty"] = pd.DataFrame({"time": times, "spread": rng.random(n)})
    out.uns["uncertainty_fit"] = {"unit": "hour"}
    out.uns["growth_fit"] = {"unit": "per hour"}
    if n == 3:
        out.uns["kind_colors"] = COLORS
    return out


def is_map_of(ax: Axes, adata: AnnData, column: str) -> bool:
    """Whether cells are drawn at their places with their numbers, the unknown one in grey."""
    grey, known = (c for c in ax.collections if isinstance(c, PathCollection))
    values, xy = adata.obs[column].to_numpy(), adata.obsm["X_umap"]
    np.testing.assert_array_equal(np.asarray(grey.get_offsets()), xy[[3]])
    order = np.argsort(np.delete(values, 3))
    np.testing.assert_array_equal(known.get_array(), np.delete(values, 3)[order])
    np.testing.assert_array_equal(np.asarray(known.get_offsets()), np.delete(xy, 3, 0)[order])
    return True


@pytest.mark.parametrize("n", [3, 8, 12])
def test_differences_at_cells_and_p_by_time(n):
    adata = cells(n)
    left, right = pl.comparison(adata)
    assert is_map_of(left, adata, "flow_difference")
    table = adata.uns["comparison"][:-1]
    (dots,), line = right.collections, right.lines[0]
    for drawn in (dots.get_offsets(), line.get_xydata()):
        np.testing.assert_array_equal(drawn, table[["time", "p"]])
    white = (dots.get_facecolors() == 1).all(1)
    np.testing.assert_array_equal(white, table["p"] >= 0.05)
    assert (left.get_title(), right.get_title()) == ("drug and none", "all times: p = 0.02")
    assert right.get_xlabel() == "time (hours)"
    left.figure.canvas.draw()


def test_uncertainty_over_time_and_at_cells():
    adata = cells()
    (alone,) = pl.uncertainty(adata)
    left, right = pl.uncertainty(adata, basis="umap")
    for ax in (alone, left):
        (curve,) = ax.lines
        np.testing.assert_array_equal(
            curve.get_xydata(), adata.uns["uncertainty"][["time", "spread"]]
        )
        assert ax.get_ylim()[0] == 0
    assert is_map_of(right, adata, "velocity_uncertainty")


@pytest.mark.parametrize("n", [3, 8, 12])
def test_growth_at_cells_and_by_groups(n):
    adata = cells(n)
    left, right = pl.growth(adata, label_key="kind")
    assert is_map_of(left, adata, "growth")
    (low, high) = (left.collections[1].norm.vmin, left.collections[1].norm.vmax)
    assert low == -high
    names = list(adata.obs["kind"].cat.categories)
    assert [text.get_text() for text in right.get_yticklabels()] == names
    groups = adata.obs.groupby("kind", observed=True)["growth"]
    for k, name in enumerate(names):
        whole, half, dot = right.lines[3 * k : 3 * k + 3]
        found = [*whole.get_xdata(), *half.get_xdata(), *dot.get_xdata()]
        np.testing.assert_allclose(
            found, groups.get_group(name).quantile([0.05, 0.95, 0.25, 0.75, 0.5])
        )
        assert set(whole.get_ydata()) == {k}
        if n == 3:
            assert to_hex(half.get_color()) == COLORS[k]
    assert right.get_xlabel() == "growth rate (per hour)"
    _, given = plt.subplots()
    (only,) = pl.growth(adata, ax=given)
    assert only is given


@pytest.mark.parametrize("n", [3, 8, 12])
def test_cells_stand_between_their_fates(n):
    adata = cells(n)
    p = np.nan_to_num(adata.obsm["fates"].to_numpy())
    p[:n] = np.eye(n)  # these have one fate
    p[5] = np.nan
    adata.obsm["fates"].iloc[:] = p
    ax = pl.fate_simplex(adata, title="fates")
    (dots,) = ax.collections
    places = np.asarray(np.ma.filled(dots.get_offsets(), np.nan))
    known = np.delete(np.arange(N), 5)
    turn = np.exp(2j * np.pi * (0.25 - np.arange(n) / n))  # corners clockwise from the top
    mean = p[known] @ turn
    np.testing.assert_allclose(places[known], np.stack([mean.real, mean.imag], 1), atol=1e-12)
    assert np.isnan(places[5]).all()
    likeliest = p[known].argmax(1)
    if n == 3:
        assert [to_hex(c) for c in dots.get_facecolors()[known]] == [COLORS[k] for k in likeliest]
    assert [text.get_text() for text in ax.texts] == list(adata.obsm["fates"].columns)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_a_simplex_coloured_by_a_column():
    ax = pl.fate_simplex(cells(), color="growth")
    assert [a.get_ylabel() for a in ax.child_axes] == ["growth"]


@pytest.fixture
def trajectory() -> Trajectory:
    rng = torch.Generator().manual_seed(0)
    log_mass = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * torch.ones(10)
    x = torch.randn(5, 10, 3, generator=rng, dtype=torch.float64)
    return Trajectory(torch.linspace(0, 2, 5, dtype=torch.float64), x, log_mass)


@pytest.mark.parametrize("color", [None, "kind"])
def test_a_film_moves_the_cells(trajectory, color, tmp_path):
    adata, file = cells(), tmp_path / "film.gif"
    film = pl.animation(adata, trajectory, file, time_key="day", color=color, seconds=1)
    with Image.open(file) as found:
        assert found.n_frames == 5
        assert found.info["duration"] == 200
    areas = []
    for k in (0, 3, 4):
        (dots,) = film._func(k)
        np.testing.assert_array_equal(dots.get_offsets(), trajectory.x[k, :, :2])
        assert dots.axes.get_title() == f"day {k / 2:.2f}"
        areas.append(dots.get_sizes())
        inks = {to_hex(c) for c in dots.get_facecolors()}
        assert inks <= set(COLORS) if color else len(inks) == 1
    np.testing.assert_allclose(areas[1] / areas[0], np.exp(0.75))
    for xy in (adata.obsm["X_pca"][:, :2], trajectory.x[..., :2].reshape(-1, 2).numpy()):
        low, high = dots.axes.viewLim.min, dots.axes.viewLim.max
        assert (low < xy).all() and (xy < high).all()


def test_one_clear_error_each(trajectory, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    adata, bare = cells(), AnnData(np.zeros((3, 1)))
    two = cells(2)
    film = partial(pl.animation, adata, trajectory, time_key="day")
    calls = {
        r"uns\['comparison'\]. Run cellflow.tl.compare\(": partial(pl.comparison, bare),
        r"uns\['uncertainty'\]. Run cellflow.tl.uncertainty\(": partial(pl.uncertainty, bare),
        r"obs\['growth'\]. Run cellflow.tl.growth\(": partial(pl.growth, bare),
        r"obsm\['fates'\]. Run cellflow.tl.fates\(": partial(pl.fate_simplex, bare),
        "`adata`: got 2 fates, expected three": partial(pl.fate_simplex, two),
        "`label_key`: got 'sort'": partial(pl.growth, adata, label_key="sort"),
        "`file`: got '.mp4', expected what ffmpeg writes": partial(film, "film.mp4"),
        "`file`: got '.avi', expected one of": partial(film, "film.avi"),
        "`seconds`: got 0": partial(film, seconds=0),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
    del adata.obs["velocity_uncertainty"]
    with pytest.raises(ValueError, match=r"obs\['velocity_uncertainty'\]. Run cellflow.tl.vel"):
        pl.uncertainty(adata, basis="umap")
    with pytest.raises(TypeError, match="`trajectory`: got ndarray"):
        pl.animation(adata, np.zeros((2, 3)), time_key="day")
