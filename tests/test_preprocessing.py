"""Principal components and whitening against scikit-learn, and what they do not depend on."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from cellflow.preprocessing import fit_preprocessing

F64 = torch.float64


def cells(seed: int = 0) -> torch.Tensor:
    """Cells with a spectrum without ties, away from the origin, in no special axes."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5], dtype=F64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=F64)).Q
    return (torch.randn(200, 5, generator=g, dtype=F64) * spread) @ turn + 3.0


def test_components_are_those_of_scikit_learn_up_to_sign() -> None:
    ours = fit_preprocessing(cells(), n_components=3).loadings
    theirs = torch.as_tensor(PCA(3, svd_solver="full").fit(cells().numpy()).components_).T
    assert_close(ours.abs(), theirs.abs())
    assert_close((ours * theirs).sum(0).abs(), torch.ones(3, dtype=F64))


def test_whitened_components_are_those_of_scikit_learn_up_to_sign() -> None:
    """It divides by the deviation with n - 1, we by that with n."""
    ours = fit_preprocessing(cells(), n_components=3, whiten=True).apply(cells())
    theirs = PCA(3, whiten=True, svd_solver="full").fit_transform(cells().numpy())
    assert_close(ours.abs(), torch.as_tensor(theirs).abs() * (200 / 199) ** 0.5)


def test_components_do_not_depend_on_where_the_cells_are() -> None:
    near, far = (fit_preprocessing(x, n_components=3) for x in (cells(), cells() + 100.0))
    assert_close(near.loadings, far.loadings)
    assert_close(near.apply(cells()), far.apply(cells() + 100.0))
    assert_close(near.apply(cells()).mean(0), torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_loading_of_each_component_is_positive(seed: int) -> None:
    loadings = fit_preprocessing(cells(seed), n_components=5).loadings
    assert bool((loadings.max(0).values >= -loadings.min(0).values).all())


def test_components_of_mirrored_cells_are_the_same() -> None:
    """A sign convention that looked at the cells would turn with them."""
    a, b = (fit_preprocessing(x, n_components=5).loadings for x in (cells(), -cells()))
    assert_close(a, b)


def test_invert_vectors_equals_differences_of_inverted_cells() -> None:
    p = fit_preprocessing(cells(), n_components=5, whiten=True)
    z = p.apply(cells())
    assert_close(p.invert(z), cells())
    assert_close(p.invert_vectors(z[1:] - z[:-1]), cells()[1:] - cells()[:-1])
