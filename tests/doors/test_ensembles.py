"""Ensembles at the AnnData door and on the command line: what their members say, put together."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow import pl, tl
from cellflow.batches import Batching
from cellflow.fits import Ensemble
from cellflow.methods import UOTCFM
from cellflow.networks import MLPConfig
from cli_files import cellflow_, write_cells

SMALL = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}


def cells(n: int = 40) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(n, 3)) + k for k in range(3)])
    day = np.repeat(["day 0", "day 1", "day 3"], n)
    out = anndata.AnnData(obs=pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(3 * n)]))
    out.obsm["X_pca"] = x
    out.obs["kind"] = pd.Categorical(np.tile(["a", "b"], 3 * n // 2))
    return out


def fitted(adata: anndata.AnnData, **options) -> Ensemble:
    options = {"method": cf.OTCFM(**SMALL), "n_dims": 2} | options
    options |= {"members": 3, "steps": 20, "workers": 1, "progress": False}
    return tl.fit(adata, time_key="day", label_key="kind", **options)


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return cells()


@pytest.fixture(scope="module")
def three(adata) -> Ensemble:
    return fitted(adata)


def test_a_fit_of_several_members_is_an_ensemble(adata, three) -> None:
    assert isinstance(three, Ensemble)
    assert len(three) == 3
    assert all(fit.origin == three.origin for fit in three)
    assert three.origin["use_rep"] == "X_pca"
    one = tl.fit(adata, time_key="day", n_dims=2, method=cf.OTCFM(**SMALL), steps=5, progress=False)
    assert isinstance(one, cf.Fit)
    with pytest.raises(ValueError, match="`bootstrap`: got True for one fit, expected several"):
        tl.fit(adata, time_key="day", bootstrap=True)


def test_velocities_are_means_and_say_where_members_disagree(adata, three) -> None:
    here = adata.copy()
    here.obs.loc["c7", "day"] = None
    tl.velocity(here, three)
    x, times = here.obsm["X_pca"][:, :2], np.repeat([0.0, 1.0, 3.0], 40)
    v = torch.stack([fit.velocity(times, x) for fit in three]).numpy()
    known = np.arange(120) != 7
    np.testing.assert_allclose(here.obsm["velocity_pca"][known, :2], v.mean(0)[known])
    np.testing.assert_allclose(
        here.obsm["velocity_pca_std"][known, :2], v.std(0, ddof=1)[known], rtol=1e-6
    )
    assert (here.obsm["velocity_pca_std"][:, 2] == 0).all()
    uncertainty = here.obs["velocity_uncertainty"].to_numpy()
    assert np.isnan(uncertainty[7])
    off, mean = v.var(0, ddof=1).sum(1), np.square(v.mean(0)).sum(1)
    np.testing.assert_allclose(uncertainty[known], np.sqrt(off / (off + mean))[known], rtol=1e-6)
    assert here.uns["velocity_fit"]["members"] == 3


def test_uncertainty_is_zero_where_members_agree(adata, three) -> None:
    one = three.members[0]
    here = adata.copy()
    tl.velocity(here, Ensemble((one, one), (0, 1)))
    assert (here.obs["velocity_uncertainty"] == 0).all()
    tl.velocity(here, one, key_added="single")
    assert "single_uncertainty" not in here.obs


def test_interpolated_cells_name_their_member(three) -> None:
    out = tl.interpolate(three, time=0.5, n_cells=10, rng=1)
    assert out.n_obs == 30
    assert out.obs["member"].cat.categories.tolist() == [0, 1, 2]
    assert out.uns["interpolation"]["members"] == 3
    assert set(out.obs["kind"]) == {"a", "b"}
    parts = np.stack([out.obsm["X_pca"][out.obs["member"] == k] for k in range(3)])
    spread = np.sqrt(parts.var(0, ddof=1).sum(1))
    for k in range(3):
        mine = out.obs[out.obs["member"] == k]
        np.testing.assert_allclose(mine["spread"], spread, rtol=1e-5)
        assert mine["cell"].tolist() == list(range(10))
        assert mine["origin_kind"].tolist() == out.obs["origin_kind"].iloc[:10].tolist()
    first = three.course.snapshots[0]
    assert float(out.obs["mass"].sum()) == pytest.approx(float(first.mass.sum()))


def test_equal_cells_are_the_same_of_all_members(adata) -> None:
    """Drawn by their mean share of the mass, so that row i of all members started as one cell."""
    grown = fitted(adata, method=UOTCFM(**SMALL))
    weighted = grown.interpolate(0.5)
    equal = grown.interpolate(0.5, weighted=False, n_cells=4000)
    shares = torch.stack([s.weights for s in weighted.members]).mean(0)
    for all_cells, cells in zip(weighted.members, equal.members, strict=True):
        assert cells.is_uniform
        assert cells.total_mass == pytest.approx(all_cells.total_mass, rel=1e-4)
        mean = shares @ all_cells.x.to(shares)
        torch.testing.assert_close(cells.x.to(mean).mean(0), mean, rtol=0, atol=0.01)
    out = tl.interpolate(grown, time=0.5, weighted=False)
    assert out.n_obs == 3 * 40
    assert out.obs["mass"].nunique() == 3  # one of each member


def test_a_trajectory_is_the_members_mean(adata, three) -> None:
    path = tl.simulate(adata, three, times=[0.0, 1.0, 3.0])
    x0 = adata.obsm["X_pca"][:40, :2]
    alone = torch.stack([fit.simulate(x0, [0.0, 1.0, 3.0]).x for fit in three])
    torch.testing.assert_close(path.x, alone.mean(0))
    torch.testing.assert_close(path.std, alone.std(0))
    with pytest.raises(ValueError, match="`store_dtype`: got an ensemble, expected a fit"):
        tl.simulate(adata, three, store_dtype="float16")


def test_growth_has_its_spread(adata) -> None:
    here = adata.copy()
    some = fitted(here, method=UOTCFM(**SMALL))
    tl.growth(here, some)
    rates = []
    for fit in some:
        tl.growth(here, fit)
        rates.append(here.obs["growth"].to_numpy())
    tl.growth(here, some)
    np.testing.assert_allclose(here.obs["growth"], np.mean(rates, 0))
    np.testing.assert_allclose(here.obs["growth_std"], np.std(rates, 0, ddof=1))


def test_the_history_drawn_is_that_of_a_member(three) -> None:
    with pytest.raises(TypeError, match="`fit`: got Ensemble, expected a Fit or a History"):
        pl.history(three)


def test_an_ensemble_on_the_command_line(tmp_path) -> None:
    file, folder = write_cells(tmp_path / "cells.h5ad"), tmp_path / "fit"
    words = f"--time-key day --dims 2 --steps 6 --members 2 --bootstrap --workers 1 --out {folder}"
    result = cellflow_("fit", file, *words.split(), "--quiet")
    assert result.exit_code == 0, result.output
    assert "weights of step 6, 6 of 6" in result.stdout
    saved = cf.load(folder)
    assert saved.bootstrap
    assert len(saved) == 2
    out = tmp_path / "day.h5ad"
    words = f"--time 4 --n-cells 5 --out {out}"
    result = cellflow_("interpolate", folder, *words.split())
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(out).obs["member"].tolist() == [0] * 5 + [1] * 5
