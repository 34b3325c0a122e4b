"""Growth at the AnnData door, and masses wherever cells are shown or scored."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection

import cellflow as cf
from cellflow import Dynamics, Snapshot, TimeCourse
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.simulate import simulate
from cellflow.training.trainer import Training
from cli_files import cellflow_

PARTS = {
    "net": MLPConfig(32, 2),
    "batching": Batching(128, None, prefetch=False),
    "training": Training(learning_rate=1e-2, ema=0.98, validation=0.0),
}
METHOD = cf.methods.UOTCFM(0.2, relaxation=0.3, **PARTS)
DAYS, N = (1.0, 3.0, 4.0), 20
#: Growth rates of the two clusters, per day: over two days they grow by 5.88 and 0.12.
RATES = np.log([5.88, 0.12]) / 2


def cells() -> anndata.AnnData:
    """Two clusters of equal mass on day 1, of which the second all but dies out; one stray cell."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.1, (2 * N * 3 + 1, 3)).astype(np.float32)
    x[:-1, 0] += 9.0 * np.tile(np.repeat([0.0, 1.0], N), 3)
    mass = np.exp(np.outer(np.array(DAYS) - 1.0, RATES)).repeat(N, 1).ravel() / N
    obs = pd.DataFrame(
        {"day": np.append(np.repeat(DAYS, 2 * N), np.nan), "mass_of_cell": np.append(mass, np.nan)},
        index=[f"c{i}" for i in range(len(x))],
    )
    obs["known"] = np.append(np.tile(RATES.repeat(N), 3), 0.0)
    return anndata.AnnData(obs=obs, obsm={"X_pca": x})


@pytest.fixture(scope="module")
def fitted() -> cf.Fit:
    return cf.tl.fit(
        cells(),
        time_key="day",
        method=METHOD,
        mass_key="mass_of_cell",
        missing="drop",
        steps=400,
        progress=False,
    )


# --- what is learned ---------------------------------------------------------------------------


def test_rates_and_descendants_are_written_beside_the_cells(fitted, tmp_path) -> None:
    adata = cells()
    cf.tl.growth(adata, fitted)
    got = adata.obs["growth_descendants"].to_numpy()
    by_cluster = np.log(got[: 4 * N].reshape(2, 2, N)).mean(2)
    np.testing.assert_allclose(by_cluster, np.outer([2.0, 1.0], RATES), atol=0.1)
    assert np.isnan(got[4 * N :]).all()  # nothing follows the last day
    rate = adata.obs["growth"].to_numpy()
    assert np.isfinite(rate[:-1]).all() and np.isnan(rate[-1])
    expected = fitted.growth(1.0, adata.obsm["X_pca"][: 2 * N])
    np.testing.assert_allclose(rate[: 2 * N], expected, rtol=1e-5, atol=1e-6)
    # 0.12 is 0.04 of the mean cell's, 3; on the third day 0.35 is 0.14 of the mean cell's, 2.4.
    childless = adata.obs["growth_childless"].to_numpy()
    assert childless.dtype == bool
    assert childless[N : 2 * N].all() and childless.sum() == N
    facts = adata.uns["growth_fit"]
    assert facts["childless"] == pytest.approx(0.25)
    assert facts["unit"] == "per day" and facts["n_without_time"] == 1
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(read.obs["growth_childless"], childless)


def test_the_mean_cell_is_the_mean_by_mass(fitted) -> None:
    """If nearly all mass is in the dying cluster, it is the mean that dies: none is childless."""
    adata = cells()
    adata.obs.loc[adata.obs_names[N : 2 * N], "mass_of_cell"] = 1e3
    cf.tl.growth(adata, fitted, key_added="g")
    assert not adata.obs["g_childless"].any()
    assert fitted.origin["mass_key"] == "mass_of_cell"


def test_cells_between_snapshots_grow_until_the_next_one(fitted) -> None:
    adata = cells()[:N].copy()
    adata.obs["day"] = 2.0
    cf.tl.growth(adata, fitted)
    x = torch.from_numpy(adata.obsm["X_pca"])
    expected = fitted.simulate(x, [2.0, 3.0]).mass[-1]
    np.testing.assert_allclose(adata.obs["growth_descendants"], expected, rtol=1e-5)
    assert not adata.obs["growth_childless"].any()


def test_a_fit_without_growth_is_refused(fitted) -> None:
    plain = cf.tl.fit(
        cells()[:-1].copy(), time_key="day", method=cf.OTCFM(**PARTS), steps=2, progress=False
    )
    adata = cells()
    with pytest.raises(ValueError, match="a fit of 'otcfm', expected one of a method with growth"):
        cf.tl.growth(adata, plain)
    with pytest.raises(ValueError, match="`n_paths`: got 0"):
        cf.tl.growth(adata, fitted, n_paths=0)
    assert list(adata.obs) == list(cells().obs)


def test_random_futures_are_averaged() -> None:
    """Growth at rate x under noise: E exp(∫x dt) = exp(x + σ²/6) over one unit of time."""
    sigma, n = 0.9, 400
    noisy = Dynamics(
        velocity=lambda t, x: torch.zeros_like(x),
        score=lambda t, x: torch.zeros_like(x),
        growth=lambda t, x: x[:, 0],
        sigma=sigma,
    )
    adata = anndata.AnnData(obs=pd.DataFrame({"day": [0.0, 0.0, 1.0, 1.0]}, index=list("abcd")))
    adata.obsm["X_pca"] = np.array([[0.0], [0.5], [0.0], [1.0]])
    fit = cf.tl.fit(adata, time_key="day", method=METHOD, steps=1, progress=False)
    fit = type(fit)(noisy, fit.method, fit.course, fit.networks, origin=fit.origin)
    cf.tl.growth(adata, fit, solver="euler_maruyama", n_paths=n, rng=1)
    got = adata.obs["growth_descendants"].to_numpy()[:2]
    spread = np.sqrt(np.expm1(sigma**2 / 3) / n)  # of a lognormal mean, relative
    np.testing.assert_allclose(np.log(got), [sigma**2 / 6, 0.5 + sigma**2 / 6], atol=4.5 * spread)
    cf.tl.growth(adata, fit)
    np.testing.assert_allclose(adata.obs["growth_descendants"][:2], np.exp([0.0, 0.5]), rtol=1e-6)


def test_known_growth_is_read_from_a_column() -> None:
    """Believed entirely; where no masses are given, less what makes the total stay."""
    adata = cells()[:-1].copy()
    method = cf.methods.UOTCFM(0.2, relaxation=None, **PARTS)
    fit = cf.tl.fit(
        adata, time_key="day", method=method, growth_key="known", steps=400, progress=False
    )
    x = fit.course.snapshots[0].x
    rate = fit.growth(1.0, x).view(2, N).mean(1)
    np.testing.assert_allclose(rate, RATES - np.log(3.0) / 2, atol=0.1)
    adata.obs["known"] = np.nan
    with pytest.raises(ValueError, match="`growth`: got NaN or infinite values"):
        cf.tl.fit(adata, time_key="day", method=method, growth_key="known", progress=False)
    with pytest.raises(ValueError, match="`growth_key`: got 'unknown'"):
        cf.tl.fit(adata, time_key="day", method=method, growth_key="unknown", progress=False)


def test_a_column_of_ones_makes_the_number_of_cells_the_size_of_the_population() -> None:
    adata = cells()[:-1].copy()
    adata = adata[np.r_[0:10, 40:80, 80:120]].copy()  # 10 cells, all of one cluster, then 40
    adata.obsm["X_pca"][:, 0] = 0.0
    adata.obs["one"] = 1
    fit = cf.tl.fit(adata, time_key="day", method=METHOD, mass_key="one", steps=300, progress=False)
    assert [float(s.mass.sum()) for s in fit.course.snapshots] == [10.0, 40.0, 40.0]
    assert float(fit.interpolate(2.999).mass.sum()) == pytest.approx(40.0, rel=0.15)
    assert float(fit.interpolate(2.0).mass.sum()) == pytest.approx(20.0, rel=0.15)
    table = cf.tl.interpolate(fit, time=2.0)
    np.testing.assert_array_equal(table.obs["mass"], fit.interpolate(2.0).mass)


def test_masses_grow_in_interpolations_and_weigh_in_held_out_scores() -> None:
    """Two clusters at a constant rate: between, the shares are those of the geometric means."""
    torch.manual_seed(0)
    xs, shares = [], ((0.5, 0.5), (2 / 3, 1 / 3), (0.8, 0.2))
    for _ in shares:
        x = 0.1 * torch.randn(40, 2, dtype=torch.float64)
        x[20:, 0] += 9.0
        xs.append(x)
    masses = [torch.tensor(s, dtype=torch.float64).repeat_interleave(20) for s in shares]
    course = TimeCourse.from_arrays(xs, masses=masses)
    methods = [cf.methods.UOTCFM(0.2, **PARTS), cf.OTCFM(0.2, **PARTS)]
    table = cf.evaluate.holdout(
        course, methods, steps=300, seeds=1, metrics=("w1",), progress=False
    )
    score = {row.method: row.value for row in table.rows}
    assert score["uotcfm"] < 0.35  # a share of 0.01 too many would cost 0.09
    assert score["otcfm"] > 0.9  # which moves 0.3 of the mass half-way across the gap


def test_fit_command_reads_growth_as_the_door_does(tmp_path) -> None:
    file, folder, day = tmp_path / "cells.h5ad", tmp_path / "fit", tmp_path / "day.h5ad"
    cells()[:-1].copy().write_h5ad(file)
    keys = ["--time-key", "day", "--mass-key", "mass_of_cell", "--growth-key", "known"]
    out = cellflow_("fit", file, *keys, "--method", "uotcfm", "--steps", 150, "--out", folder)
    assert out.exit_code == 0, out.stderr
    out = cellflow_("interpolate", folder, "--time", 2.9, "--out", day)
    assert out.exit_code == 0, out.stderr
    mass = anndata.read_h5ad(day).obs["mass"].to_numpy().reshape(2, N).sum(1)
    assert mass[0] > 3.0 > 1.0 > 2 * mass[1]  # from 1 each, towards 5.88 and 0.12
    out = cellflow_("interpolate", folder, "--time", 2.9, "--out", day, "--no-weighted")
    assert out.exit_code == 0, out.stderr
    assert anndata.read_h5ad(day).obs["mass"].nunique() == 1
    out = cellflow_("holdout", file, *keys, "--method", "ubsb", "--steps", 5, "--seeds", 1)
    assert out.exit_code == 0
    assert "ubsb" in out.stdout


# --- what is drawn -----------------------------------------------------------------------------


def test_dots_have_areas_and_lines_widths_in_proportion_to_mass(fitted) -> None:
    adata = cells()[:-1].copy()
    cells_then = Snapshot(torch.rand(5, 3), 2.0, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    ax = cf.pl.interpolation(adata, cells_then, time_key="day", basis="pca")[-1]
    sizes = [c.get_sizes() for c in ax.collections if isinstance(c, PathCollection)]
    dots = next(s for s in sizes if len(s) == 5)
    np.testing.assert_allclose(dots / dots[0], [1, 2, 3, 4, 5])

    doubling = Dynamics(
        lambda t, x: torch.ones_like(x), growth=lambda t, x: 0 * t + 1.0 + 0 * x[:, 0]
    )
    path = simulate(doubling, torch.zeros(2, 3), [0.0, 0.5, 1.0])
    ax = cf.pl.trajectories(adata, path, time_key="day", basis="pca")
    lines = [c for c in ax.collections if isinstance(c, LineCollection)][-1]
    e = np.exp([0.0, 0.5, 1.0])
    expected = 0.7 * np.tile((e[:-1] + e[1:]) / 2, 2)
    np.testing.assert_allclose(lines.get_linewidths(), expected, rtol=1e-4)
