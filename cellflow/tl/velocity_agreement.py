"""Whether a fit moves cells where their RNA velocity points."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.answers import agreement
from cellflow.fits import Ensemble, Fit, Spread
from cellflow.pp.access import read_states, take
from cellflow.tl._genes import columns_of, loadings_of
from cellflow.tl._reading import states_and_times


def velocity_agreement(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    velocity_key: str,
    n_permutations: int = 999,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Tell whether a fit moves cells in the direction of their RNA velocity.

    By the cosine of both velocities at each cell, which units do not change, beside what chance
    makes of it: RNA velocities permuted between the cells of a time. See
    :func:`cellflow.answers.agreement`. RNA velocity is an estimate itself, and no truth.

    Parameters
    ----------
    adata, fit
        As in :func:`velocity`; of an ensemble, the mean velocity is compared.
    velocity_key
        Where the RNA velocity is: a key of ``obsm``, in the columns of the representation that the
        fit is on; or one of ``layers``, such as scVelo's ``"velocity"``, which is carried into that
        representation by its loadings, with NaN, of genes without a velocity, as zero.
    n_permutations, rng
        Permutations, of which the smallest possible p value is one over one more; and their seed or
        generator.

    Returns
    -------
    DataFrame
        One row for each time, and one for all together (time NaN): ``cells`` that have both
        velocities, ``mean`` cosine with its 95 % interval ``low`` to ``high``, ``chance``, the
        mean after permutation, and ``p``, of a mean as high. Times at which no cell has an RNA
        velocity are left out. The same is in ``uns["velocity_agreement"]``;
        ``obs["velocity_agreement"]`` has the cosine of each cell, NaN where there is none.
    """
    rep, times, x = states_and_times(adata, fit)
    measured = _measured(adata, fit, velocity_key, rep)
    usable = np.isfinite(times) & (np.nan_to_num(measured) != 0).any(1)
    points = np.unique(times[usable])
    if len(points) == 0:
        got = f"{velocity_key!r}, without a cell that has a time and a velocity"
        raise ValueError(_checks.message("velocity_key", got, "RNA velocities"))
    rows = [np.flatnonzero(usable & (times == point)) for point in points]
    fitted = []
    for point, some in zip(points, rows, strict=True):
        v = fit.velocity(float(point), torch.from_numpy(x[some, : fit.course.dim]))
        fitted.append(v.mean if isinstance(v, Spread) else v)
    others = [torch.from_numpy(measured[some]) for some in rows]
    found = agreement(fitted, others, n_permutations=n_permutations, generator=rng)
    cells = np.full(adata.n_obs, np.nan)
    cells[np.concatenate(rows)] = torch.cat(found.cells).numpy()
    named = {"cells": "count", "p": "p_value"} | {k: k for k in ("mean", "low", "high", "chance")}
    order = ("cells", "mean", "low", "high", "chance", "p")
    columns = {column: getattr(found, named[column]).numpy() for column in order}
    out = pd.DataFrame({"time": [*points, np.nan], **columns})
    adata.obs["velocity_agreement"] = cells
    adata.uns["velocity_agreement"] = out.copy()
    return out


def _measured(adata: AnnData, fit: Fit | Ensemble, key: str, rep: str) -> np.ndarray:
    """Return the RNA velocity of each cell in the space of the fit, ``(n, d)``."""
    d, layers = fit.course.dim, [name for name in adata.layers if name is not None]
    if key in adata.obsm:
        name = f"obsm[{key!r}]"
        if f"{key.removesuffix('_' + rep.removeprefix('X_'))}_fit" in adata.uns:
            got = f"{key!r}, which cellflow.tl.velocity has written"
            remedy = "Copy RNA velocities to another key before it is called."
            raise ValueError(_checks.message("velocity_key", got, "RNA velocities", remedy))
        v = read_states(adata.obsm[key], slice(None), n_dims=None, dtype=torch.float64, name=name)
        if v.shape[1] < d or (rep == "X" and v.shape[1] != d):
            got = f"shape {tuple(v.shape)}"
            raise ValueError(_checks.message(name, got, f"the {d} columns of the fit, on {rep}"))
        return v[:, :d].numpy()
    _checks.choice(key, [*adata.obsm.keys(), *layers], "velocity_key")
    names, loadings = loadings_of(adata, fit)
    stored = take(adata.layers[key], slice(None))
    stored = stored.toarray() if hasattr(stored, "toarray") else np.asarray(stored)
    _, where = columns_of([str(name) for name in adata.var_names], names)
    genes = np.nan_to_num(np.asarray(stored, dtype=float)[:, where])
    return genes @ loadings.double().numpy()
