"""The edges of hold-out evaluation and of the AnnData door."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from accuracy.protocols import paper_protocol
from cellflow import TimeCourse
from cellflow.batches import Batching
from cellflow.evaluate import METRICS, holdout
from cellflow.metrics import split_half_floor
from cellflow.networks import MLPConfig

PARTS = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}
METHOD = cf.OTCFM(**PARTS)


def table(course: TimeCourse, methods=METHOD, **options) -> cf.evaluate.HoldoutTable:
    return holdout(course, methods, **{"steps": 5, "seeds": 1, "progress": False} | options)


def masses(n: int = 40) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(1, 4, (n,), generator=g).double() for _ in range(3)]


def course(weighted: bool = False, unit: str = "day") -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [torch.randn(40, 2, generator=g, dtype=torch.float64) + k for k in range(3)]
    return TimeCourse.from_arrays(xs, masses=masses() if weighted else None, unit=unit)


def anndata_of(n: int = 50) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * n, 4)).astype(np.float32)
    obs = pd.DataFrame({"day": np.repeat(["day 2", "day 3", "day 10"], n)})
    obs.index = [f"c{i}" for i in range(3 * n)]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(4)])
    return anndata.AnnData(X=x, obs=obs, var=var, obsm={"X_pca": x, "X_umap": x[:, :2] * 2})


def fit(adata: anndata.AnnData, **options) -> cf.Fit:
    options = {"time_key": "day", "method": METHOD, "steps": 5, "progress": False} | options
    return cf.tl.fit(adata, **options)


# --- hold-out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "got"),
    [
        ([cf.OTCFM(0.1), cf.OTCFM(2.0)], "names 'otcfm' more than once"),
        ([replace(METHOD, name="pooled")], "a method named 'pooled', as a yardstick is"),
        ([], "none"),
    ],
)
def test_methods_have_names_of_their_own(methods, got: str) -> None:
    match = f"`methods`: got {got}, expected methods of distinct names"
    with pytest.raises(ValueError, match=match):
        table(course(), methods)
    with pytest.raises(ValueError, match=match):
        paper_protocol(course(), methods=methods, n_dims=2, progress=False)


def test_methods_of_one_name_are_refused_at_the_anndata_door_too() -> None:
    options = {"time_key": "day", "steps": 5, "progress": False}
    with pytest.raises(ValueError, match=r"`methods`: .* Give each a name: dataclasses.replace"):
        cf.tl.holdout(anndata_of(), method=["otcfm", "otcfm"], **options)
    renamed = [METHOD, replace(METHOD, name="other")]
    assert cf.tl.holdout(anndata_of(), method=renamed, seeds=1, **options).models == [
        "otcfm",
        "other",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "`seeds`: got none, expected at least one"),
        ({"seeds": [-1]}, "`seeds`: got -1"),
        ({"seeds": [2**63]}, f"`seeds`: got {2**63}"),
        ({"metrics": []}, "`metrics`: got none, expected some of energy, w1, w2"),
    ],
)
def test_holdout_refuses_empty_lists(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(course(), **options)


def test_seeds_may_be_numpy_integers() -> None:
    c = course()
    assert table(c, seeds=np.int64(2)) == table(c, seeds=np.arange(2)) == table(c, seeds=2)


def test_masses_weigh_as_copies_of_cells_do() -> None:
    """A cell of mass m is m cells: yardsticks that draw nothing agree with repeated cells."""
    weighted = course(weighted=True)
    repeated = TimeCourse.from_arrays(
        [s.x.repeat_interleave(m.long(), 0) for s, m in zip(course().snapshots, masses())]
    )
    a, b = table(weighted), table(repeated)
    for metric in METRICS:
        for name in ("previous", "next"):
            assert_close(a.values(1.0, name, metric), b.values(1.0, name, metric))
            assert a.values(1.0, name, metric) != table(course()).values(1.0, name, metric)


def test_pushed_cells_keep_their_masses() -> None:
    c = course(weighted=True)
    t = table(c, steps=5, metrics=["w1"])
    fitted = METHOD.fit(c.without(1), steps=5, generator=0, progress=False)
    start, truth = c.snapshots[:2]
    x = fitted.simulate(start.x, [0.0, 1.0]).final
    expected = METRICS["w1"](x, truth.x, x_mass=start.mass, y_mass=truth.mass)
    assert t.values(1.0, "otcfm", "w1") == pytest.approx([expected])


def test_masses_come_in_at_the_anndata_door() -> None:
    adata = anndata_of()
    adata.obs["heavy"] = np.where(np.arange(adata.n_obs) % 2, 5.0, 1.0)
    options = {"time_key": "day", "method": METHOD, "steps": 5, "seeds": 1, "progress": False}
    tables = [cf.tl.holdout(adata, mass_key=key, **options) for key in ("heavy", None)]
    day2, day3 = (adata.obsm["X_pca"][k : k + 50] for k in (0, 50))
    mass = adata.obs["heavy"][:50]
    weighed = METRICS["w1"](day2, day3, x_mass=mass, y_mass=mass)
    expected = [weighed, METRICS["w1"](day2, day3)]
    assert [t.values(3.0, "previous", "w1")[0] for t in tables] == pytest.approx(expected)


def test_pooled_snapshots_weigh_as_many_cells_as_they_have() -> None:
    c = course()
    fewer = c.snapshots[2].subset(torch.arange(15))
    c = TimeCourse((*c.snapshots[:2], fewer))
    total = replace(c.snapshots[0], mass=torch.full((40,), 7.0))  # uniform, of another total
    a = table(c, metrics=["w1"])
    b = table(TimeCourse((total, *c.snapshots[1:])), metrics=["w1"])
    assert a.values(1.0, "pooled", "w1") == b.values(1.0, "pooled", "w1")
    uneven = replace(total, mass=torch.cat([torch.full((39,), 7.0), torch.tensor([7.0 + 1e-9])]))
    b = table(TimeCourse((uneven, *c.snapshots[1:])), metrics=["w1"])
    assert a.values(1.0, "pooled", "w1") == pytest.approx(b.values(1.0, "pooled", "w1"))


def test_the_floor_weighs_its_halves() -> None:
    """Where all mass is in one cell of each half, the floor is the distance of such cells."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(10, 1)
    mass = torch.tensor([1e-300, 1.0], dtype=torch.float64).repeat(10)
    floor = split_half_floor(x, METRICS["w1"], mass=mass, generator=0)
    assert floor.max() < 1e-12 < split_half_floor(x, METRICS["w1"], generator=0).max()
    with pytest.raises(ValueError, match=r"`mass`: got shape \(3,\), expected \(20,\)"):
        split_half_floor(x, METRICS["w1"], mass=mass[:3])


def test_tables_and_plots_name_the_unit_of_the_course() -> None:
    t = table(course(unit="hour"))
    assert "hour 1" in str(t)
    assert "day" not in str(t)
    assert cf.pl.holdout(t).get_xlabel() == "held-out hour"


def test_losses_are_in_the_units_of_training() -> None:
    adata = anndata_of()
    plain, whitened = fit(adata), fit(adata, whiten=True)
    labels = [cf.pl.history(f).get_ylabel() for f in (plain, whitened, plain.history)]
    kinds = ["data units² / day²", "model units² / day²", "model units² / time²"]
    assert labels == [f"loss ({kind})" for kind in kinds]


# --- AnnData ---------------------------------------------------------------------------------


@pytest.mark.parametrize("time_map", [None, {"day 2": 0, "day 3": 1, "day 10": 2}])
@pytest.mark.parametrize("word", [None, "NA"])
def test_cells_without_a_time_are_left_out_of_every_answer(time_map, word) -> None:
    adata = anndata_of()
    adata.obs.loc[adata.obs_names[::10], "day"] = word
    timed = adata[adata.obs["day"].notna() & (adata.obs["day"] != "NA")].copy()
    out = fit(adata, missing="drop", time_map=time_map)
    cf.tl.velocity(adata, out, basis="umap")
    cf.tl.velocity(timed, out)
    kept = adata.obs_names.isin(timed.obs_names)
    np.testing.assert_array_equal(adata.obsm["velocity_pca"][kept], timed.obsm["velocity_pca"])
    assert (adata.obsm["velocity_pca"][~kept] == 0).all()
    assert (adata.obsm["velocity_umap"][~kept] == 0).all()
    assert adata.uns["velocity_fit"]["n_without_time"] == 15
    assert timed.uns["velocity_fit"]["n_without_time"] == 0
    assert cf.tl.simulate(adata, out).x.shape == (50, 45, 4)
    with pytest.raises(ValueError, match="1 of 1 cells observed at another time"):
        cf.tl.simulate(adata, out, cells=["c0"])


def test_bad_times_and_cells_of_a_simulation_are_named() -> None:
    adata = anndata_of()
    out = fit(adata)
    with pytest.raises(ValueError, match="`times`: got 0 times, expected at least 2"):
        cf.tl.simulate(adata, out, times=[])
    with pytest.raises(TypeError, match="`times`: got float, expected several values"):
        cf.tl.simulate(adata, out, times=5.0)
    adata.obs_names = ["c0", *adata.obs_names[:-1]]
    with pytest.raises(ValueError, match="`cells`: got names, but adata.obs_names repeats some"):
        cf.tl.simulate(adata, out, cells=["c0"])


def test_predicted_expression_keeps_the_names_of_genes(tmp_path) -> None:
    out = fit(anndata_of(), use_rep="X")
    for f in (out, cf.load(out.save(tmp_path / "fit"))):
        names = cf.tl.interpolate(f, time=5).var_names
        assert list(names) == ["gene0", "gene1", "gene2", "gene3"]


def test_labels_do_not_overwrite_what_predictions_have() -> None:
    adata = anndata_of()
    adata.obs["mass"] = "heavy"
    for key in ("mass", "day"):
        with pytest.raises(ValueError, match=f"`label_key`: got '{key}', expected another column"):
            fit(adata, label_key=key)
