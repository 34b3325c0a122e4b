"""Density ratios against those of two normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.stats import multivariate_normal

import cellflow as cf
from cellflow.densities.flows import GMM


def test_ratio_of_two_normal_clouds_is_the_closed_form():
    rng, n = np.random.default_rng(0), 3000
    first, last = ((0, 0), [[1.0, 0.3], [0.3, 0.5]]), ((1, -0.5), [[0.5, -0.2], [-0.2, 0.8]])
    x = np.concatenate([rng.multivariate_normal(*p, size=n) for p in (first, last)])
    adata = AnnData(obsm={"X_pca": x.astype(np.float32)})
    adata.obs["day"] = np.repeat(["day 1", "day 3"], n)
    adata.obs.loc[adata.obs_names[:5], "day"] = np.nan
    cf.tl.density_ratio(adata, time_key="day", start="day 1", end=3.0, method=GMM(1), steps=20)
    truth = multivariate_normal(*last).logpdf(x) - multivariate_normal(*first).logpdf(x)
    found = adata.obs["density_ratio"].to_numpy()
    error = found - truth
    assert np.sqrt((error**2).mean()) < 0.1 * truth.std()
    cf.tl.density_ratio(
        adata, time_key="day", start=3, end=1, method=GMM(1), steps=20, key_added="back"
    )
    torch.testing.assert_close(torch.tensor(adata.obs["back"].to_numpy()), -torch.tensor(found))
    assert (adata.uns["back"]["start"], adata.uns["back"]["end"]) == (3, 1)


@pytest.mark.parametrize(("start", "end"), [(1, 2), (1, 1), (2, 3), ("day 4", 3)])
def test_times_that_are_not_two_of_the_course_are_refused(start, end):
    adata = AnnData(obsm={"X_pca": np.eye(6, dtype=np.float32)})
    adata.obs["day"] = [1, 1, 1, 3, 3, 3]
    with pytest.raises(ValueError, match=r"`(start|end)`: got"):
        cf.tl.density_ratio(adata, time_key="day", start=start, end=end)
