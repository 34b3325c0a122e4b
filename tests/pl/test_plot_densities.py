"""Figures of outliers, batches and forecasts draw what the tables say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from cellflow import pl

N = 90


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    out = AnnData(obs=pd.DataFrame({"lane": np.repeat(["a", "b", "c"], N // 3)}))
    out.obs.index = out.obs.index.astype(str)
    out.obs["outlier_score"] = rng.normal(size=N) + np.repeat([0.0, 0.0, 4.0], N // 3)
    out.obs["outlier_fitted"] = np.arange(N) < 10
    out.uns["outlier"] = {"threshold": 1.5}
    out.obsm = {"X_pca": rng.normal(size=(N, 3)), "X_batch_free": rng.normal(size=(N, 3)) / 2}
    scores = {"batch_accuracy": [0.9, 0.4], "chance": [1 / 3] * 2, "label_transfer": [0.5, 0.7]}
    out.uns["batch_free"] = pd.DataFrame(scores, index=["before", "after"])
    return out


@pytest.fixture
def cells() -> AnnData:
    table = {"time": [3.0, 4.5], "ahead": [1.0, 1.5], "model": [2.0, 1.5], "recurrent": [1.0, 1.2]}
    table |= {"last": [3.0, 1.0], "mean": [4.0, 2.0], "floor": [0.5, 0.7]}
    return AnnData(uns={"forecast": pd.DataFrame(table), "interpolation": {"unit": "day"}})


def test_boxes_are_the_quartiles_of_cells_that_were_not_fitted(adata):
    ax = pl.outliers(adata, "lane")
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    score = adata.obs["outlier_score"].to_numpy()
    parts = (score[10:30], score[30:60], score[60:])
    for box, part in zip(ax.patches, parts, strict=True):
        edges = box.get_path().vertices[:, 0]
        np.testing.assert_allclose([edges.min(), edges.max()], np.quantile(part, [0.25, 0.75]))
    told = [t.get_text() for t in ax.texts]
    assert told == [*(f"{np.mean(part > 1.5):.1%}" for part in parts), "called"]
    assert any(np.allclose(line.get_xdata(), 1.5) for line in ax.lines)


def test_cells_before_and_after_stand_on_one_scale(adata):
    before, after = pl.batches(adata, "lane", dims=(0, 2))
    before.figure.canvas.draw()
    for ax, name in ((before, "X_pca"), (after, "X_batch_free")):
        np.testing.assert_allclose(ax.collections[0].get_offsets(), adata.obsm[name][:, [0, 2]])
    assert before.get_title() == "before\nbatch told 0.90 (chance 0.33)\nlabels across batches 0.50"
    assert after.get_title().splitlines()[1] == "batch told 0.40 (chance 0.33)"
    np.testing.assert_allclose(before.axis(), after.axis(), rtol=0.05)
    assert [t.get_text() for t in before.get_legend().get_texts()] == ["a", "b", "c"]


def test_forecasts_stand_beside_their_yardsticks(cells):
    ax = pl.forecast(cells)
    ax.figure.canvas.draw()
    table = cells.uns["forecast"]
    for line, name in zip(ax.lines, ("model", "recurrent", "last", "mean"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table[name])
        assert (line.get_markerfacecolor() == "white") == (name in ("last", "mean"))
    assert [bar.get_height() for bar in ax.patches] == table["floor"].tolist()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3\n(+1)", "4.5\n(+1.5)"]
    assert ax.get_xlabel() == "forecast day (after the last known)"


def test_they_draw_on_given_axes_and_say_what_to_run(adata, cells):
    _, (ax, other) = plt.subplots(1, 2)
    assert pl.outliers(adata, "lane", ax=ax) is ax
    assert list(pl.batches(adata, "lane", ax=[ax, other])) == [ax, other]
    assert pl.forecast(cells, ax=other) is other
    for draw, call in (
        (lambda: pl.outliers(cells, "lane"), "outlier_score"),
        (lambda: pl.batches(cells, "lane"), "batch_free"),
        (lambda: pl.forecast(adata), "forecast"),
    ):
        with pytest.raises(ValueError, match=f"Run cellflow.tl.{call}"):
            draw()
