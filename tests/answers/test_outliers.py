"""Outliers: the stated rate of false alarms on fresh cells, and what is planted is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.stats import betabinom, multivariate_normal
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

import cellflow as cf
from cellflow.answers import outliers
from cellflow.densities import Density
from cellflow.densities.density import zuko


@dataclass(frozen=True)
class Wrong(Density):
    """Normal density that learns nothing of cells but their mean and scale."""

    def build(self, dim: int) -> nn.Module:
        flow = zuko().GMM(dim, components=1)
        for parameter in flow.parameters():
            nn.init.zeros_(parameter)
        return flow


def two_scales(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a tight clump and of a wide cloud; and others around the clump, a tenth as many."""
    rng = np.random.default_rng(seed)
    wide = rng.random((n, 1)) < 0.5
    x = rng.normal(size=(n, 2)) * np.where(wide, 3.0, 0.3) + np.where(wide, 10, 0) * [1, 0]
    angle = rng.uniform(0, 2 * np.pi, n // 10)
    return x, 1.4 * np.c_[np.cos(angle), np.sin(angle)] + rng.normal(size=(n // 10, 2)) / 10


def log_density(x: np.ndarray) -> np.ndarray:
    wide = multivariate_normal([10, 0], 9).logpdf(x)
    return np.logaddexp(multivariate_normal([0, 0], 0.09).logpdf(x), wide) - np.log(2)


def test_false_alarms_are_as_many_as_stated_whatever_the_density():
    """Of n fresh cells, those called are beta-binomial given m held-back ones."""
    x = torch.from_numpy(two_scales(4000, 0)[0])
    found = outliers(x[1000:], x[:1000], Wrong(), false_positive_rate=0.1, steps=1)
    m, k, n = 500, int(0.1 * 501), 3000
    low, high = betabinom.interval(0.999, n, k, m + 1 - k)
    assert low <= int((found.score > found.threshold).sum()) <= high
    assert torch.equal(found.score > found.threshold, found.p_value <= 0.1)
    # p values by the definition, cell by cell
    held = torch.ones(1000, dtype=torch.bool).index_fill(0, found.fitted, False)
    scores = -found.density.log_prob(x[:1000][held])
    torch.testing.assert_close(found.calibration, scores.sort().values)
    by_hand = (1 + (found.calibration >= found.score[:50, None]).sum(1)) / 501
    torch.testing.assert_close(found.p_value[:50], by_hand.double())


def test_rates_that_too_few_cells_cannot_hold_are_refused():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least 0.0909 for 20 reference cells"):
        outliers(x, x, Wrong(), false_positive_rate=0.05, steps=1)
    found = outliers(x, x, Wrong(), false_positive_rate=1 / 11, steps=1)
    assert found.threshold == found.calibration.max()


def test_planted_cells_are_found_as_the_true_density_finds_them():
    (fresh, planted), (known, _) = two_scales(500, 1), two_scales(2000, 0)
    adata = AnnData(obsm={"X_pca": np.r_[known, fresh, planted].astype(np.float32)})
    adata.obs["control"] = np.arange(adata.n_obs) < 2000
    cf.tl.outlier_score(adata, reference="control", method="gmm", steps=20)
    new = adata.obs.iloc[2000:]
    truth = np.arange(550) >= 500
    ours, best, distance, forest = (
        roc_auc_score(truth, score)
        for score in (
            new["outlier_score"],
            -log_density(np.r_[fresh, planted]),
            NearestNeighbors(n_neighbors=15).fit(known).kneighbors(np.r_[fresh, planted])[0][:, -1],
            -IsolationForest(random_state=0).fit(known).score_samples(np.r_[fresh, planted]),
        )
    )
    assert ours > best - 0.02
    assert ours > max(distance, forest) + 0.01
    assert new["outlier"][truth].mean() > 0.6
    assert 0.01 < new["outlier"][~truth].mean() < 0.1
    told = adata.uns["outlier"]
    assert told["n_held"] == adata.obs["outlier_fitted"].sum() == 1000
    held = adata.obs["control"] & ~adata.obs["outlier_fitted"]
    ranks = np.arange(2, 1002) / 1001  # of those held back, each as strange as itself
    np.testing.assert_allclose(np.sort(adata.obs["outlier_p"][held]), ranks, atol=1.5e-3)
    assert (adata.obs["outlier"] == (adata.obs["outlier_score"] > told["threshold"])).all()
    assert not adata.obs["outlier_fitted"][2000:].any()


def test_a_reference_is_a_mask():
    adata = AnnData(obsm={"X_pca": np.zeros((9, 2), np.float32)})
    adata.obs["day"] = 1.0
    for wrong in ("day", [True] * 8):
        with pytest.raises(ValueError, match="true or false"):
            cf.tl.outlier_score(adata, reference=wrong)
