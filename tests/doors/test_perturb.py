"""Perturbation of genes at the AnnData door."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from torch import nn

import cellflow as cf
from cellflow import tl
from cellflow.answers import effect_on_fates
from cellflow.dynamics import Dynamics
from cellflow.fits import Fit
from cellflow.methods import SF2M
from cellflow.networks import MLPConfig
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

N, GENES, SIGMA = 60, 150, 0.8
OPTIONS = {"label_key": "kind", "times": None, "n_futures": 10}
MOVED = OPTIONS | {"change": "down"}


def made(form=np.asarray, *, seed: int = 0, genes: int = GENES, spread: float = 0.0):
    """Cells on a plane, of kinds that part along its first axis, with genes that all move them.

    Loadings of genes have the same length and any direction near the second axis, but for that of
    ``planted``, which is the first axis. Expression is sparse, and the same in law for all genes,
    but for factors of log-normal `spread`, of expression and of loadings.
    """
    rng = np.random.default_rng(seed)
    line = np.linspace(-8, 8, 801)
    day = np.repeat([0.0, 2.0], [N, len(line)])
    place = np.concatenate([rng.normal(0, 1, N), line])
    kind = np.where(place < 0, "left", "right")
    order = rng.permutation(len(day))
    values = rng.gamma(2.0, 0.5, (len(day), genes)) * (rng.random((len(day), genes)) < 0.7)
    level, size = np.exp(rng.normal(0, spread, (2, genes)))
    values *= level
    angle = rng.normal(np.pi / 2, 0.2, genes)
    angle[0] = 0
    obs = pd.DataFrame({"day": day[order], "kind": pd.Categorical(kind[order])})
    obs.index = [f"c{i}" for i in range(len(obs))]
    var = pd.DataFrame(index=["planted", *(f"g{k}" for k in range(1, genes))])
    plane = np.stack([place, 0 * place], 1)[order]
    loadings = size[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return anndata.AnnData(form(values), obs, var, obsm={"X_pca": plane}, varm={"PCs": loadings})


def known(adata: anndata.AnnData, rep: str = "X_pca") -> Fit:
    """Brownian motion as a fit to these cells."""
    zero = lambda t, x: torch.zeros_like(x)  # noqa: E731
    x = torch.from_numpy(np.array(adata.X if rep == "X" else adata.obsm[rep]))
    day = adata.obs["day"].to_numpy()
    course = TimeCourse(tuple(Snapshot(x[np.flatnonzero(day == t)], t) for t in (0.0, 2.0)))
    origin = {"use_rep": rep, "time_key": "day", "labels": {"0.0": 0.0, "2.0": 2.0}}
    origin["var_names"] = list(adata.var_names)
    if rep == "X_pca" and "PCs" in adata.varm:
        loadings = torch.from_numpy(np.array(adata.varm["PCs"]))
        mean, scale = torch.zeros(len(loadings)).double(), torch.ones(2).double()
        origin["components"] = Preprocessing(mean, scale, loadings)
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    return Fit(
        Dynamics(zero, score=zero, sigma=SIGMA), SF2M(SIGMA), course, networks, origin=origin
    )


@pytest.fixture
def adata() -> anndata.AnnData:
    return made()


@pytest.fixture(scope="module")
def fit() -> Fit:
    return known(made())


@pytest.mark.parametrize("change", ["knock-out", "up", "down", 0.5])
def test_effect_is_that_of_the_step_along_the_loading(adata, fit, change) -> None:
    """Of Brownian motion in closed form: the first axis decides, and its noise is known.

    Of what the gene gains by noise, factors leave as much as they leave of its expression.
    """
    found = tl.perturb(
        adata, fit, ["planted", "g5"], change=change, n_futures=100, label_key="kind"
    )
    early = (adata.obs["day"] == 0).to_numpy()
    law = stats.norm(scale=SIGMA * np.sqrt(2))
    place = adata.obsm["X_pca"][early, 0]
    rows = found.set_index(["gene", "group"])
    for gene in ("planted", "g5"):
        k = adata.var_names.get_loc(gene)
        value, by = np.asarray(adata.X)[early, k], np.asarray(adata.X)[:, k].std()
        new = {
            "knock-out": 0 * value,
            "up": value + by,
            "down": np.maximum(value - by, 0),
            0.5: value / 2,
        }[change]
        to = adata.varm["PCs"][k]
        step = (new - value) * to[0]
        kept = {"knock-out": 0.0, 0.5: 0.5}.get(change, 1.0)
        width = np.linalg.norm(np.eye(2)[0] - (1 - kept) * to[0] * to)
        after = law.cdf((place + step) / width) if width > 1e-9 else place + step > 0
        truth = (after - law.cdf(place)).mean()
        assert rows.loc[(gene, "right"), "effect"] == pytest.approx(truth, abs=0.02)
        assert rows.loc[(gene, "left"), "effect"] == pytest.approx(-truth, abs=0.02)
    assert rows.loc[("planted", "right"), "p"] == 1 / 101
    assert rows.loc[("planted", "right"), "fdr"] == pytest.approx(2 / 101)
    assert set(found["n_null"]) == {100}
    assert adata.uns["perturbation"].equals(found)


def test_p_values_of_genes_without_more_effect_than_others_are_uniform() -> None:
    """Also of those that move cells farther than any gene of their null, or less far."""
    adata = made(seed=0, genes=300, spread=0.7)
    found = tl.perturb(adata, known(adata), list(adata.var_names), n_null=60, label_key="kind")
    right = found[found["group"] == "right"].set_index("gene")
    assert right["p"]["planted"] == 1 / 61
    np.testing.assert_allclose(found["fdr"], stats.false_discovery_control(found["p"]))
    p = right["p"].drop("planted").to_numpy()
    reach = adata.X.mean(0) * np.linalg.norm(adata.varm["PCs"], axis=1)
    far = stats.rankdata(reach[1:]) / 299
    for some in (p, p[far < 0.1], p[far > 0.9]):
        assert stats.kstest(some, "uniform").pvalue > 0.01


def test_the_order_of_cells_changes_nothing(adata, fit) -> None:
    found = tl.perturb(adata, fit, ["g3", "planted"], **MOVED)
    again = tl.perturb(adata, fit, ["g3", "planted"], **MOVED)
    pd.testing.assert_frame_equal(again, found, check_exact=True)
    order = np.random.default_rng(1).permutation(len(adata))
    other = tl.perturb(adata[order].copy(), fit, ["g3", "planted"], **MOVED)
    pd.testing.assert_frame_equal(other, found, rtol=1e-9)


def test_no_change_has_no_effect(adata, fit) -> None:
    adata.X[:, 4] = 0  # nothing to take away
    found = tl.perturb(adata, fit, "g4", **MOVED)
    assert (found[["effect", "standard_error"]] == 0).all(axis=None)
    assert (found["p"] == 1).all()
    found = tl.perturb(adata, fit, ["planted", "g2"], change=1.0, **OPTIONS)
    assert (found["effect"] == 0).all() and (found["p"] == 1).all()


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_sparse_backed_and_viewed_expression(adata, fit, form, tmp_path) -> None:
    dense = tl.perturb(adata, fit, ["planted", "g7"], **MOVED)
    other = made(form)
    pd.testing.assert_frame_equal(tl.perturb(other, fit, ["planted", "g7"], **MOVED), dense)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a view becomes a copy
        view = tl.perturb(other[::-1], fit, ["planted", "g7"], **MOVED)
    pd.testing.assert_frame_equal(view, dense)
    if form is sparse.csr_matrix:
        other.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        pd.testing.assert_frame_equal(tl.perturb(backed, fit, ["planted", "g7"], **MOVED), dense)
        backed.file.close()


def test_fits_to_expression_are_changed_in_it() -> None:
    """Of a gene set to zero, and the others as they are; the answer's own effect."""
    adata = made(genes=6)
    fit = known(adata, "X")
    adata.obs["kind"] = np.where(np.asarray(adata.X)[:, 2] > 0.5, "on", "off")
    found = tl.perturb(adata, fit, "g2", n_null=9, **OPTIONS)
    assert set(found["n_null"]) == {5}
    x, day = torch.from_numpy(np.asarray(adata.X)), adata.obs["day"].to_numpy()
    early, late = np.flatnonzero(day == 0), np.flatnonzero(day == 2)
    early = early[np.lexsort(adata.X[early].T)]
    ends = Snapshot(x[late], 2.0, labels=adata.obs["kind"].iloc[late].tolist())
    without = x[early].clone()
    without[:, 2] = 0
    start = Snapshot(x[early], 0.0)
    # The door draws the seed of the noise from a generator, as the answer does.
    keep = torch.arange(6) != 2
    own = effect_on_fates(
        fit, start, [without], ends=ends, bends=[lambda step: step * keep], n_futures=10
    )
    np.testing.assert_allclose(found["effect"], own.effect[0], atol=1e-12)
    np.testing.assert_allclose(found["standard_error"], own.standard_error[0], atol=1e-12)
    assert found["effect"][1] < -0.05
    adata.var_names = adata.var_names[::-1]
    with pytest.raises(ValueError, match="not those of the fit, or in another order"):
        tl.perturb(adata, fit, "g2", **OPTIONS)


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("options", [{}, {"use_rep": "X", "n_dims": 3}])
def test_trained_ensembles_and_tables_on_disk(options, tmp_path) -> None:
    """Kinds part along two genes; the one that makes `up` leads there, the other away."""
    rng = np.random.default_rng(0)
    day, kind = np.repeat([0.0, 1.0, 3.0], 40), np.tile(["down", "up"], 60)
    x = 2 + rng.normal(0, 0.1, (120, 12))
    x[:, 0] += (0.2 + day) * (kind == "up")
    x[:, 1] += (0.2 + day) * (kind == "down")
    obs = pd.DataFrame({"day": day, "kind": kind}, index=[f"c{i}" for i in range(120)])
    adata = anndata.AnnData(x, obs, pd.DataFrame(index=[f"g{k}" for k in range(12)]))
    cf.pp.pca(adata, n_components=3)
    method = cf.OTCFM(net=MLPConfig(16, 2))
    several = tl.fit(
        adata, time_key="day", method=method, label_key="kind", members=2, workers=1, steps=200,
        progress=False, **options,
    )  # fmt: skip
    found = tl.perturb(adata, several, ["g0", "g1"], change=0.0, n_null=10)
    up = found[found["group"] == "up"].set_index("gene")
    assert up["effect"]["g0"] < -0.3 and up["effect"]["g1"] > 0.3
    assert (found["member_std"] >= 0).all()
    late = tl.perturb(adata, several, "g0", times=("1.0", 3.0), n_null=10)
    assert late["effect"][1] < 0
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_zarr(tmp_path / "cells.zarr")
    for again in (
        anndata.read_h5ad(tmp_path / "cells.h5ad"),
        anndata.read_zarr(tmp_path / "cells.zarr"),
    ):
        pd.testing.assert_frame_equal(
            again.uns["perturbation"].reset_index(drop=True), late, check_dtype=False
        )


def spoil(adata) -> None:
    adata.X[5, 2] = np.nan


def scale(adata) -> None:
    adata.X -= 1.0


def repeat_names(adata) -> None:
    adata.var_names = ["g3", *adata.var_names[1:]]


def forget(adata) -> None:
    del adata.varm["PCs"]


def leave_out(adata) -> None:
    adata.varm["PCs"][2:4] = 0


def leave_one(adata) -> None:
    adata.varm["PCs"][1:] = 0


def unlabel(adata) -> None:
    adata.obs.loc[adata.obs["day"] == 2, "kind"] = None


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (None, {"genes": "plant"}, "`genes`: got 'plant', .*Did you mean 'planted'"),
        (None, {"genes": []}, "`genes`: got none"),
        (None, {"genes": ["g1", "g1"]}, "`genes`: got .*each gene once"),
        (leave_out, {"genes": ["g1", "g2", "g3"]}, "`genes`: got 'g2', 'g3', which the comp"),
        (leave_one, {}, "`fit`: got a single gene with a loading"),
        (forget, {}, "`fit`: got a fit of use_rep='X_pca' without genes .none were"),
        (None, {"label_key": None}, "`label_key`: got None, and the fit has no labels"),
        (None, {"label_key": "type"}, "`label_key`: got 'type'"),
        (unlabel, {}, "`label_key`: got no cell with a label in obs.'kind'. at time 2"),
        (None, {"times": (2.0, 0.0)}, "`start`: got 2, expected an earlier time of the fit: 0"),
        (None, {"times": (0.0, 1.0)}, "`end`: got 1, expected a later time of the fit: 2"),
        (None, {"times": (0.0,)}, "`times`: got .*two, a start and an end"),
        (None, {"change": "off"}, "`change`: got 'off'"),
        (None, {"change": -1.0}, "`change`: got -1"),
        (None, {"n_null": 0}, "`n_null`: got 0"),
        (None, {"n_futures": 0}, "`n_futures`: got 0"),
        (spoil, {}, "got NaN or infinite values"),
        (scale, {}, "`X`: got negative values"),
        (repeat_names, {}, "`adata`: got gene 'g3' twice"),
    ],
)
def test_bad_input_leaves_nothing_behind(adata, prepare, options, message) -> None:
    if prepare is not None:
        prepare(adata)
    fit = known(adata)
    with pytest.raises(ValueError, match=message):
        tl.perturb(adata, fit, **{"genes": "planted"} | OPTIONS | options)
    assert set(adata.uns) == set()


def test_plans_have_no_dynamics(adata) -> None:
    coupled = tl.couple(adata, time_key="day", progress=False)
    with pytest.raises(TypeError, match="`fit`: got Coupled, expected a Fit or an Ensemble"):
        tl.perturb(adata, coupled, "planted")
