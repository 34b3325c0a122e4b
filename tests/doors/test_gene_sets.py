"""Sets of genes at the AnnData door, in closed form for Brownian motion."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import cellflow as cf
from cellflow import tl
from cellflow.answers import AllSets
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

N, SIGMA, SPAN = 60, 0.8, 2.0
LOADINGS = np.array([[-0.8, 0.1], [0.5, 0.6], [-0.2, 0.7]])


@pytest.fixture
def adata() -> anndata.AnnData:
    """Cells on a plane, of kinds that part along its first axis, and three genes."""
    rng, line = np.random.default_rng(0), np.linspace(-8, 8, 801)
    place = np.concatenate([rng.normal(0, 1, N), line])
    day = np.repeat([0.0, SPAN], [N, len(line)])
    obs = pd.DataFrame({"day": day, "kind": pd.Categorical(np.where(place < 0, "left", "right"))})
    obs.index = obs.index.astype(str)
    values = rng.gamma(2.0, 0.5, (len(day), 3))
    plane = np.stack([place, 0 * place], 1)
    var = pd.DataFrame(index=["A", "B", "C"])
    return anndata.AnnData(values, obs, var, obsm={"X_pca": plane}, varm={"PCs": LOADINGS})


@pytest.fixture
def fit(adata) -> cf.Fit:
    """Brownian motion as a fit."""
    x, zero = torch.from_numpy(adata.obsm["X_pca"]), lambda t, x: torch.zeros_like(x)
    components = Preprocessing(
        torch.zeros(3).double(), torch.ones(2).double(), torch.tensor(LOADINGS)
    )
    origin = {"use_rep": "X_pca", "time_key": "day", "labels": {"0.0": 0.0, "2.0": SPAN}}
    origin |= {"var_names": ["A", "B", "C"], "components": components}
    dynamics = cf.Dynamics(zero, score=zero, sigma=SIGMA)
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    course = TimeCourse((Snapshot(x[:N], 0.0), Snapshot(x[N:], SPAN)))
    return cf.Fit(dynamics, cf.SF2M(SIGMA), course, networks, origin=origin)


def test_genes_of_a_set_are_taken_out_together(adata, fit) -> None:
    """By their sum before, and on the way by what is left beside all of them."""
    options = {"group": "right", "label_key": "kind", "sampler": AllSets()}
    table = tl.gene_sets(adata, fit, ["A", "B", "C"], **options)
    assert {"A", "C", "A + C"} <= set(table["genes"])
    assert "B" not in set(table["genes"])  # without which fewer go right
    place, first = adata.obsm["X_pca"][:N, 0], np.eye(2)[0]
    law = stats.norm(scale=SIGMA * np.sqrt(SPAN))
    for row in table.itertuples():
        chosen = [adata.var_names.get_loc(gene) for gene in row.genes.split(" + ")]
        some = LOADINGS[chosen]
        step = -adata.X[:N, chosen] @ some[:, 0]
        left = np.eye(2) - some.T @ some / max(np.linalg.norm(some, 2) ** 2, 1)
        width = np.linalg.norm(left @ first)
        truth = (law.cdf((place + step) / width) - law.cdf(place)).mean()
        assert row.effect == pytest.approx(truth, abs=0.03)
    told = adata.uns["gene_sets_fit"]
    assert told["n_evaluated"] == 7
    assert told["total_variation"] < 0.1
    assert adata.uns["gene_sets"].equals(table)
    probability = table["effect"] / np.exp(told["exact_log_z"])
    np.testing.assert_allclose(table["probability"], probability)


def test_only_groups_and_genes_that_there_are(adata, fit) -> None:
    with pytest.raises(ValueError, match="`group`"):
        tl.gene_sets(adata, fit, ["A", "B"], group="middle", label_key="kind")
    with pytest.raises(ValueError, match="`genes`"):
        tl.gene_sets(adata, fit, ["A", "D"], group="left", label_key="kind")
