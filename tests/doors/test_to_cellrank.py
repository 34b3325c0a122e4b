"""Kernels of CellRank: what they are given, by a stand-in; the pages of neighbours run CellRank."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

import cellflow as cf


class Kernel:
    """Keeps what it is made of, and what is asked of it."""

    def __init__(self, *args, **keys):
        self.args, self.keys, self.how = args, keys, None

    def compute_transition_matrix(self, **how):
        self.how = how
        return self


@pytest.fixture(autouse=True)
def kernels(monkeypatch) -> SimpleNamespace:
    named = ("VelocityKernel", "RealTimeKernel", "PrecomputedKernel")
    made = SimpleNamespace(**{name: type(name, (Kernel,), {}) for name in named})
    monkeypatch.setitem(sys.modules, "cellrank", SimpleNamespace(kernels=made))
    return made


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    """Cells of days "E9", "E10" and "E12", which move along the first axis; rows are mixed."""
    rng = np.random.default_rng(0)
    day = rng.permuted(np.repeat([9, 10, 12], 30))
    obs = pd.DataFrame({"stage": [f"E{d}" for d in day]}, index=[f"c{k}" for k in range(90)])
    x = rng.normal(size=(90, 3)) * 0.1 + day[:, None] * [1.0, 0.0, 0.0]
    return anndata.AnnData(obs=obs, obsm={"X_pca": x.astype(np.float32)})


@pytest.fixture(scope="module")
def fit(cells):
    how = {"time_key": "stage", "unit": "day", "progress": False}
    return cf.tl.fit(cells, method="otcfm", steps=20, **how)


@pytest.fixture(scope="module")
def coupled(cells):
    return cf.tl.couple(cells, time_key="stage", unit="day", progress=False)


def test_velocities_are_written_and_named(cells, fit) -> None:
    here = cells.copy()
    made = cf.tl.to_cellrank(here, fit, options={"similarity": "correlation"})
    assert type(made).__name__ == "VelocityKernel" and made.args[0] is here
    assert made.keys == {"attr": "obsm", "xkey": "X_pca", "vkey": "velocity_pca"}
    assert here.obsm["velocity_pca"].shape == here.obsm["X_pca"].shape
    assert made.how == {"similarity": "correlation"}
    assert cf.tl.to_cellrank(here, fit).how == {"similarity": "cosine"}


def test_plans_have_times_as_sorted_categories(cells, coupled) -> None:
    here = cells.copy()
    made = cf.tl.to_cellrank(here, coupled, kernel="realtime", options={"threshold": None})
    times = here.obs[made.keys["time_key"]]
    assert list(times.cat.categories) == [9.0, 10.0, 12.0]
    assert (here.obs["stage"] == "E" + times.astype(int).astype(str)).all()
    assert list(made.keys["couplings"]) == [(9.0, 10.0), (10.0, 12.0)]
    plan = made.keys["couplings"][10.0, 12.0]
    assert list(plan.obs_names) == list(here.obs_names[times == 10])
    assert made.how == {"conn_kwargs": {"use_rep": "X_pca"}, "threshold": None}


@pytest.mark.parametrize("what", ["fit", "coupled"])
def test_a_matrix_of_all_cells_goes_from_each_day_to_the_next(what, cells, request) -> None:
    source = request.getfixturevalue(what)
    made = cf.tl.to_cellrank(cells, source, kernel="precomputed", neighbours=5)
    matrix = made.args[0].toarray()
    np.testing.assert_allclose(matrix.sum(1), 1)
    days = cells.obs["stage"].to_numpy()
    last = days == "E12"
    np.testing.assert_array_equal(matrix[last], np.eye(90)[last])
    for before, after in (("E9", "E10"), ("E10", "E12")):
        assert matrix[np.ix_(days == before, days != after)].sum() == 0
    if what == "coupled":
        block = matrix[np.ix_(days == "E9", days == "E10")]
        np.testing.assert_allclose(block, source.transitions.matrix(9.0, 10.0).toarray())


def test_what_cannot_be_is_said(cells, fit, coupled, kernels, monkeypatch) -> None:
    with pytest.raises(ValueError, match="'realtime' of a Fit.*couple returns"):
        cf.tl.to_cellrank(cells, fit, kernel="realtime")
    with pytest.raises(ValueError, match="'velocity' of a Coupled.*fit returns"):
        cf.tl.to_cellrank(cells, coupled)
    with pytest.raises(ValueError, match="options"):
        cf.tl.to_cellrank(cells, fit, kernel="precomputed", options={"similarity": "cosine"})
    partly = cells.copy()
    partly.obs["stage"] = partly.obs["stage"].where(np.arange(90) > 0)
    with pytest.raises(ValueError, match="1 cells without a time"):
        cf.tl.to_cellrank(partly, fit, kernel="precomputed")

    def fails(*args, **keys):
        raise TypeError("assert_array_equal() got an unexpected keyword argument 'x'")

    monkeypatch.setattr(kernels, "VelocityKernel", fails)
    with pytest.raises(ImportError, match=r'numpy .*pip install "cellflow-sb\[cellrank\]"'):
        cf.tl.to_cellrank(cells.copy(), fit)
    monkeypatch.setitem(sys.modules, "cellrank", None)
    with pytest.raises(ImportError, match=r'needs cellrank: pip install "cellflow-sb\[cellrank\]"'):
        cf.tl.to_cellrank(cells, fit)
