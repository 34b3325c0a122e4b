"""The AnnData door: what is read, what is written, and what is refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import cellflow as cf
from cellflow.batches import Batching
from cellflow.networks import MLPConfig

METHOD = cf.OTCFM(net=MLPConfig(16, 2), batching=Batching(32, 32))


def cells(days=("day 2", "day 10", "day 3"), n: int = 50, d: int = 4) -> anndata.AnnData:
    """Cells that move by 1 per day along the first axis; labels in no particular order."""
    rng = np.random.default_rng(0)
    time = {label: float(str(label).split()[-1]) for label in days}
    day = np.repeat(list(days), n)
    x = rng.normal(size=(n * len(days), d)).astype(np.float32)
    x[:, 0] += np.repeat([time[label] for label in days], n)
    out = anndata.AnnData(
        X=rng.poisson(2.0, size=(len(day), 7)).astype(np.float32),
        obs=pd.DataFrame({"day": pd.Categorical(day)}, index=[f"c{i}" for i in range(len(day))]),
        obsm={"X_pca": x, "X_umap": x[:, :2] * 2},
    )
    out.obs["batch"] = pd.Categorical(np.where(np.arange(len(day)) % 2, "a", "b"))
    return out


def fit(adata, **options):
    options = {"time_key": "day", "method": METHOD, "steps": 30, "progress": False} | options
    return cf.tl.fit(adata, **options)


def snapshot_of(adata) -> dict:
    return {
        "obs": adata.obs.copy(),
        "obsm": {k: np.array(v) for k, v in adata.obsm.items()},
        "uns": sorted(adata.uns),
    }


def assert_unchanged(adata, before: dict) -> None:
    pd.testing.assert_frame_equal(adata.obs, before["obs"])
    assert list(adata.obsm) == list(before["obsm"])
    for k, v in before["obsm"].items():
        np.testing.assert_array_equal(adata.obsm[k], v)
    assert sorted(adata.uns) == before["uns"]


def test_labels_are_read_in_their_natural_order_and_the_table_is_shown(capsys) -> None:
    out = fit(cells(), progress=True, steps=5)
    assert out.course.times == (2.0, 3.0, 10.0)
    assert out.course.unit == "day"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "day 10" in shown.err
    assert "cpu, torch.float32" in shown.err


def test_fitting_and_asking_change_nothing_but_velocity_in_the_anndata() -> None:
    adata = cells()
    before = snapshot_of(adata)
    out = fit(adata)
    cf.tl.simulate(adata, out, start=2, end=3)
    cf.tl.holdout(adata, time_key="day", method=METHOD, steps=5, seeds=1, progress=False)
    assert_unchanged(adata, before)


def test_velocity_is_written_under_the_keys_of_scvelo_and_cellrank() -> None:
    adata = cells()
    out = fit(adata, n_dims=3)
    cf.tl.velocity(adata, out, basis="umap")
    v = adata.obsm["velocity_pca"]
    assert v.shape == adata.obsm["X_pca"].shape
    assert v.dtype == np.float32
    assert (v[:, 3] == 0).all()
    times = adata.obs["day"].astype(str).str.split().str[1].astype(float).to_numpy()
    direct = out.velocity(times, adata.obsm["X_pca"][:, :3])
    np.testing.assert_allclose(v[:, :3], direct.numpy(), rtol=1e-6)
    assert adata.obsm["velocity_umap"].shape == (150, 2)
    assert adata.uns["velocity_fit"]["unit"] == "data units per day"
    assert "velocity_params" not in adata.uns


def test_velocity_points_along_the_motion() -> None:
    adata = cells(n=150)
    out = fit(adata, steps=400)
    cf.tl.velocity(adata, out, basis="umap")
    mean = adata.obsm["velocity_pca"].mean(0)
    # One unit per day along the first axis, within four standard errors of 150 cells' means
    # over the seven-day interval and the network's error.
    np.testing.assert_allclose(mean, [1, 0, 0, 0], atol=0.35)
    flow = adata.obsm["velocity_umap"].mean(0)
    assert flow[0] > 3 * abs(flow[1])


def test_simulate_starts_from_the_chosen_cells() -> None:
    adata = cells()
    out = fit(adata)
    names = ["c100", "c120"]  # day 3
    path = cf.tl.simulate(adata, out, start=3, end=10, cells=names)
    assert path.x.shape == (50, 2, 4)
    np.testing.assert_allclose(path.x[0].numpy(), adata.obsm["X_pca"][[100, 120]], rtol=1e-6)
    mask = adata.obs_names.isin(names)
    again = cf.tl.simulate(adata, out, times=np.linspace(3, 10, 50), cells=mask)
    assert torch.equal(path.x, again.x)
    back = cf.tl.simulate(adata, out, start=10, end=2, n_cells=5)
    assert back.x.shape == (50, 5, 4)
    assert float(back.times[-1]) == 2.0


def test_interpolation_is_an_anndata_of_the_same_kind(tmp_path) -> None:
    out = fit(cells(), label_key="batch")
    new = cf.tl.interpolate(out, time=6.5, n_cells=20)
    assert new.obsm["X_pca"].shape == (20, 4)
    assert set(new.obs["day"]) == {6.5}
    assert set(new.obs["batch"]) <= {"a", "b"}
    assert new.obs["mass"].to_numpy().sum() == pytest.approx(1.0)  # they stand for all
    new.write_h5ad(tmp_path / "new.h5ad")
    read = anndata.read_h5ad(tmp_path / "new.h5ad")
    np.testing.assert_array_equal(read.obsm["X_pca"], new.obsm["X_pca"])


def test_a_loaded_fit_needs_no_anndata(tmp_path) -> None:
    out = fit(cells())
    loaded = cf.load(out.save(tmp_path / "fit"))
    a, b = cf.tl.interpolate(out, time=5), cf.tl.interpolate(loaded, time=5)
    np.testing.assert_array_equal(a.obsm["X_pca"], b.obsm["X_pca"])
    adata = cells()
    cf.tl.velocity(adata, loaded)
    assert np.isfinite(adata.obsm["velocity_pca"]).all()


def test_expression_is_rotated_to_components_and_back() -> None:
    adata = cells()
    out = fit(adata, use_rep="X", n_dims=3)
    new = cf.tl.interpolate(out, time=6.5, floor=False)
    assert new.X.shape == (50, 7)
    # States lie in the span of the fitted components, around the mean.
    p = out.preprocessing
    x = torch.as_tensor(new.X)
    assert torch.allclose(p.invert(p.apply(x)), x, atol=1e-4)


def test_whitened_fits_answer_in_data_units() -> None:
    adata = cells(n=150)
    adata.obsm["X_pca"][:, 0] *= 100
    out = fit(adata, whiten=True, steps=300)
    x = cf.tl.interpolate(out, time=3.0 + 1e-9).obsm["X_pca"]
    assert x[:, 0].mean() == pytest.approx(300, abs=40)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_data_or_the_users_choice(dtype) -> None:
    adata = cells()
    adata.obsm["X_pca"] = adata.obsm["X_pca"].astype(dtype)
    assert (
        fit(adata, steps=5).course.snapshots[0].x.dtype
        == torch.from_numpy(np.empty(0, dtype)).dtype
    )
    out = fit(adata, steps=5, dtype=torch.float64)
    assert next(out.dynamics.velocity.parameters()).dtype == torch.float64
    for other in (torch.int32, torch.bfloat16):
        with pytest.raises(TypeError, match="`dtype`: got .* expected a floating type to train in"):
            fit(adata, steps=5, dtype=other)
    with pytest.raises(TypeError, match="`dtype`: got str, expected a dtype or None"):
        fit(adata, steps=5, dtype="float64")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_key": "days"}, "`time_key`: got 'days'.* Did you mean 'day'"),
        ({"use_rep": "X_umpa"}, "`use_rep`: got 'X_umpa'.* Did you mean 'X_umap'"),
        ({"n_dims": 9}, "`n_dims`: got 9, expected at most 4"),
        ({"method": "otcmf"}, "`method`: got 'otcmf'.* Did you mean 'otcfm'"),
        ({"time_map": {"day 2": 0}}, "time_map"),
        ({"steps": 0}, "`steps`: got 0"),
        ({"rng": -1}, "`rng`: got -1"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(options, message: str) -> None:
    adata = cells()
    before = snapshot_of(adata)
    with pytest.raises(ValueError, match=message):
        fit(adata, **options)
    assert_unchanged(adata, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, f: cf.tl.simulate(a, f, start=5), "`start`: got 5, expected an observed time"),
        (lambda a, f: cf.tl.simulate(a, f, start=2, cells=["c149"]), "1 of 1 cells observed at an"),
        (lambda a, f: cf.tl.simulate(a, f, start=2, cells=["zz"]), "`cells`: got 'zz'"),
        (lambda a, f: cf.tl.simulate(a, f, start=2, times=[2, 3]), "`times`: got times besides"),
        (lambda a, f: cf.tl.velocity(a, f, basis="tsne"), "tsne"),
        (lambda a, f: cf.tl.velocity(a[:, :2].copy(), f, basis="umpa"), "umpa"),
    ],
)
def test_bad_questions_are_named_and_nothing_is_written(call, message: str) -> None:
    adata = cells()
    out = fit(adata, steps=5)
    before = snapshot_of(adata)
    with pytest.raises(ValueError, match=message):
        call(adata, out)
    assert_unchanged(adata, before)


def test_a_fit_to_tensors_says_so_at_the_door() -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    tensors = METHOD.fit(cf.TimeCourse.from_arrays([x, x + 1]), steps=5, progress=False)
    with pytest.raises(ValueError, match="`fit`: got a fit to tensors"):
        cf.tl.velocity(cells(), tensors)
    assert cf.tl.interpolate(tensors, time=0.5).obsm["X_state"].shape == (60, 4)
