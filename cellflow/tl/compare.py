"""Whether two conditions flow differently, where and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellflow._typing import Rng
from cellflow.answers.comparison import compare as compared
from cellflow.methods import Method
from cellflow.pp.reading import Reading
from cellflow.tl._reading import preprocessing_of, read_course, resolve_method

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def compare(
    adata: AnnData,
    *,
    condition_key: str,
    time_key: str,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    method: str | Method = "otcfm",
    steps: int = 300,
    n_permutations: int = 99,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Tell whether the cells of two conditions flow differently, and at which times and cells.

    A flow is fitted to each condition, and both again after conditions were permuted among the
    cells of each time: :func:`cellflow.answers.compare`. Cells count as independent: with several
    animals or dishes of a condition, differences between these are found as well.

    Parameters
    ----------
    adata
        Cells of two conditions, at least ten of each at every time.
    condition_key
        Column of ``obs`` with the condition.
    time_key, use_rep, n_dims, method
        As in :func:`fit`.
    steps
        Training steps of each fit; there are two for each permutation.
    n_permutations
        The smallest possible p value is one over one more.
    rng
        Seed or generator of permutations and fits.

    Returns
    -------
    DataFrame
        One row for each time, and one for all together (time NaN): ``difference`` of velocities,
        root mean square over cells, in data units per unit of time, and ``p``. The same is in
        ``uns["comparison"]``, and the conditions and the unit of time are in
        ``uns["comparison_fit"]``; ``obs["flow_difference"]`` has the difference at each cell, NaN
        for cells without a time.
    """
    import pandas as pd

    made = resolve_method(method)
    keys = Reading(time_key=time_key, use_rep=use_rep, n_dims=n_dims, label_key=condition_key)
    course, index, n_components = read_course(adata, keys)
    prep = preprocessing_of(course.x, n_components, False)
    if prep is not None:
        course = course.map(prep.apply)
    found = compared(course, made, steps=steps, n_permutations=n_permutations, generator=rng)
    cells = np.full(adata.n_obs, np.nan)
    for rows, values in zip(index.rows, found.cells, strict=True):
        cells[rows] = values.numpy()
    whole = float(found.difference.square().mean().sqrt())
    out = pd.DataFrame(
        {
            "time": [*found.times, np.nan],
            "difference": [*found.difference.tolist(), whole],
            "p": [*found.p_value.tolist(), found.overall],
        }
    )
    adata.uns["comparison"] = out.copy()
    adata.uns["comparison_fit"] = {
        "condition_key": condition_key,
        "conditions": np.array(found.conditions),
        "unit": course.unit,
    }
    adata.obs["flow_difference"] = cells
    return out
