"""Couplings computed elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.testing import assert_close

from cellflow.couplings import Given
from clouds import snapshots

MATRIX = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
FORMS = {
    "array": MATRIX,
    "list": MATRIX.tolist(),
    "integers": MATRIX.astype(int),
    "tensor": torch.tensor(MATRIX, dtype=torch.float32),
    "sparse tensor": torch.tensor(MATRIX).to_sparse(),
    "csr": sparse.csr_matrix(MATRIX),
    "csc array": sparse.csc_array(MATRIX),
    "coo with repeats": sparse.coo_matrix(
        ([1.0, 1.0, 1.0, 3.0], ([0, 0, 0, 1], [1, 1, 2, 0])), shape=(2, 3)
    ),
    "moscot output": SimpleNamespace(transport_matrix=torch.tensor(MATRIX)),
    "AnnData": SimpleNamespace(X=sparse.csr_matrix(MATRIX), obs=None),
    "by times": {(0, 1): MATRIX, (1, 2): MATRIX.T},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_given_plans_of_any_form(form):
    """Scaled to total one; which row carries how much (growth) is kept."""
    source, target = snapshots(2, 3)
    plan = Given(form)(source, target)
    assert_close(plan.dense(), torch.tensor(MATRIX / 6))
    assert len(plan.rows) == 3
    assert plan.converged
    assert plan.marginal_error == pytest.approx(np.abs(MATRIX.sum(0) / 6 - 1 / 3).sum())


def test_given_plans_are_not_cut_into_blocks():
    assert Given(MATRIX).needs_whole


BAD_GIVEN = {
    "shape": (
        MATRIX.T,
        ValueError,
        r"`plan`: got shape \(3, 2\), expected \(2, 3\): source × target",
    ),
    "vector": (MATRIX[0], ValueError, r"`plan`: got shape \(3,\), expected a matrix"),
    "negative": (-MATRIX, ValueError, "`plan`: got minimum -3, expected no negative values"),
    "nan": (MATRIX * np.nan, ValueError, "`plan`: got NaN or infinite values, expected finite"),
    "empty": (0 * MATRIX, ValueError, "`plan`: got only zeros, expected a plan with mass"),
    "text": ("plan.npz", TypeError, r"`plan`: got str, expected an \(n, m\) matrix of numbers"),
    "key": ({"0_1": MATRIX}, ValueError, "`plan`: got key '0_1', expected pairs of times as keys"),
    "times": ({(3, 4): MATRIX}, KeyError, r"got times \(0.0, 1.0\), expected one of"),
    "inside": ({(0, 1): -MATRIX}, ValueError, r"`plan\[\(0, 1\)\]`: got minimum -3"),
}


@pytest.mark.parametrize(("plan", "error", "text"), BAD_GIVEN.values(), ids=BAD_GIVEN)
def test_given_refuses_bad_plans(plan, error, text):
    with pytest.raises(error, match=text):
        Given(plan)(*snapshots(2, 3))
