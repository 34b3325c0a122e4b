"""Batches that differ by a known affine map are aligned, and labels stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData

import cellflow as cf
from cellflow.answers import batch_free
from cellflow.densities.flows import GMM, NSF

#: A triangular map of columns, and where it moves them: what a flow of one layer can undo exactly.
MAP, MOVE = np.array([[1.3, 0.5], [0.0, 0.8]]), np.array([2.0, -2.0])


def batches(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells as they are, as they were measured, batches and labels."""
    rng = np.random.default_rng(0)
    label, batch = rng.integers(3, size=n), rng.permutation(np.arange(n) % 2)
    x = np.array([[0, 0], [3, 1], [1, 3]])[label] + 0.4 * rng.normal(size=(n, 2))
    return x, np.where(batch[:, None] == 1, x @ MAP + MOVE, x), batch, label


def test_an_affine_map_is_undone_and_labels_stay():
    x, measured, batch, label = batches(1000)
    adata = AnnData(obsm={"X_pca": measured.astype(np.float32)})
    adata.obs["lane"], adata.obs["type"] = np.array(["a", "b"])[batch], label
    table = cf.tl.batch_free(adata, batch_key="lane", label_key="type", reference="a", steps=200)
    np.testing.assert_array_equal(
        adata.obsm["X_batch_free"][batch == 0], measured[batch == 0].astype(np.float32)
    )
    before, after = table.loc["before"], table.loc["after"]
    assert before["batch_accuracy"] > 0.8
    # 0.5 and four binomial standard errors
    assert after["batch_accuracy"] < before["chance"] + 4 * 0.5 / np.sqrt(1000)
    assert after["label_transfer"] > 0.93 > 0.7 > before["label_transfer"]
    assert after["label_purity"] > 0.95 > before["label_purity"]
    off = [
        np.linalg.norm((y - x)[batch == 1], axis=1).mean()
        for y in (measured, adata.obsm["X_batch_free"])
    ]
    assert off[1] < 0.15 * off[0]


def test_scores_of_batches_that_are_alike_and_of_labels_that_are_noise():
    """Of untrained flows, which standardise: two halves of one cloud stay as they are, nearly."""
    x = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(4, (800,), generator=torch.Generator().manual_seed(1))
    found = batch_free(x, np.arange(800) % 2, NSF(1), labels=labels, steps=1)
    noise = 4 * 0.5 / np.sqrt(800)
    assert found.scores["batch_accuracy"] == pytest.approx((0.5, 0.5), abs=noise)
    assert found.scores["label_purity"] == pytest.approx((0.25, 0.25), abs=noise)
    assert found.scores["label_transfer"] == pytest.approx((0.25, 0.25), abs=noise)
    own = batch_free(x, np.arange(800) % 2, NSF(1), labels=np.arange(800), steps=1).scores
    assert own["label_purity"] == own["label_transfer"] == (0, 0)  # no cell is its own neighbour
    without = batch_free(x, np.arange(800) % 2, NSF(1), steps=1)
    assert without.scores == {k: found.scores[k] for k in ("batch_accuracy", "chance")}


def test_what_cannot_be_mapped_is_refused():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="a flow"):
        batch_free(x, np.arange(30) % 2, GMM())
    for wrong in (np.zeros(30), np.arange(30) < 5, np.arange(20) % 2):
        with pytest.raises(ValueError, match="two or more, each of ten"):
            batch_free(x, wrong, NSF(1))
    with pytest.raises(ValueError, match="reference"):
        batch_free(x, np.arange(30) % 2, NSF(1), reference="2")
