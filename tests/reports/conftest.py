"""A fit, cells with answers, a table of which all is known, and the page of the three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cellflow as cf
from cellflow.networks import MLPConfig
from report_cases import BATCHES, TITLE, TYPES, table


@pytest.fixture(scope="session")
def cells():
    out = cf.datasets.embryoid()[::12].copy()
    out = out[~((out.obs["day"] == 7.5) & (np.arange(out.n_obs) % 4 > 0))].copy()
    half = out.obsm["X_pca"][:, 1] > np.median(out.obsm["X_pca"][:, 1])
    out.obs["kind"] = pd.Categorical(np.where(half, *TYPES))
    out.obs["batch"] = np.where(np.arange(out.n_obs) % 2, *BATCHES)
    return out


@pytest.fixture(scope="session")
def fit(cells):
    method = cf.UOTCFM(net=MLPConfig(8, 1))
    given = {"time_key": "day", "n_dims": 3, "label_key": "kind", "steps": 20, "progress": False}
    fit = cf.tl.fit(cells, method=method, rng=5, **given)
    cf.tl.fates(cells, fit)
    cf.tl.growth(cells, fit)
    cf.tl.velocity(cells, fit, basis="pca")
    return fit


@pytest.fixture(scope="session")
def page(cells, fit, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    return cf.report(cells, fit, path, holdout=table(), title=TITLE)
