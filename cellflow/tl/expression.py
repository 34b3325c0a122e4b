"""From states back to genes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellflow import _checks
from cellflow._typing import ArrayLike
from cellflow.fits import Ensemble, Fit


def expression(
    fit: Fit | Ensemble,
    states: ArrayLike,
    *,
    genes: Sequence[str] | None = None,
    memory: float = 2**32,
) -> np.ndarray:
    """Expression of genes in states of a fit to expression.

    Parameters
    ----------
    fit
        A fit of ``use_rep="X"``.
    states
        As its answers have them, shape ``(..., d)``: cells, or the ``x`` of a trajectory.
    genes
        Names, in the order wanted; all genes of the fit when omitted.
    memory
        Most bytes that the answer may take.

    Returns
    -------
    Expression, shape ``(..., genes)``, in the floating dtype of `states`: of a fit to components
    what these say of it, without what they leave out.
    """
    if fit.origin.get("use_rep") != "X":
        got = f"a fit of use_rep={fit.origin.get('use_rep')!r}"
        remedy = "Components of your own go back by states @ adata.varm['PCs'].T, plus the mean."
        raise ValueError(_checks.message("fit", got, "one of use_rep='X'", remedy))
    x = _checks.as_numbers(states, "states").detach().cpu()
    x = x if x.is_floating_point() else x.float()
    names, found = fit.origin["var_names"], fit.origin.get("components")
    width = len(names) if found is None else found.loadings.shape[1]
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(_checks.message("states", f"shape {tuple(x.shape)}", f"(..., {width})"))
    columns = None
    if genes is not None:
        at = {name: k for k, name in enumerate(names)}
        unknown = [str(gene) for gene in genes if str(gene) not in at]
        if unknown:
            _checks.choice(unknown[0], names, "genes")
        columns = [at[str(gene)] for gene in genes]
    n_columns = len(names) if columns is None else len(columns)
    size = x.numel() // width * n_columns * x.element_size()
    if size > memory:
        got = f"{size / 2**30:.1f} GiB for {x.numel() // width} states of {n_columns} genes"
        remedy = "Ask for some `genes`, or for fewer cells."
        raise ValueError(_checks.message("states", got, f"at most {memory / 2**30:.3g}", remedy))
    if found is None:
        return (x if columns is None else x[..., columns]).numpy()
    loadings, mean = found.loadings.to(x), found.mean.to(x)
    if columns is not None:
        loadings, mean = loadings[columns], mean[columns]
    return (x @ loadings.T + mean).numpy()
