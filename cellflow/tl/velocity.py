"""Velocities of cells, where scanpy's neighbours look for them, beside their RNA velocity."""

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
from cellflow.tl._genes import columns_of, loadings_of, places_of, readout_of
from cellflow.tl._reading import order_of_genes, states_and_times
from cellflow.tl.projection import project_velocity

#: Cells whose velocities are computed at once, so that memory beside them does not grow.
_BLOCK = 2**16


def velocity(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    basis: str | None = None,
    genes: bool | None = None,
    key_added: str = "velocity",
) -> None:
    """Write each cell's velocity, at its own time, into the AnnData.

    It writes ``obsm["velocity_pca"]`` (named after the representation), in data units per unit of
    time and of the representation's shape, with zeros in dimensions that were not modelled and for
    cells without a time; with `basis`, also ``obsm["velocity_umap"]``; and ``uns["velocity_fit"]``,
    which says which fit they are from and how many cells had no time.

    With `genes`, ``layers["velocity"]`` in units of expression per unit of time, zero for genes
    that the components leave out, and ``var["velocity_genes"]``, which genes they do not;
    ``layers["Ms"]``, the expression that the states stand for, without a floor, so that differences
    between cells are those of the representation. An ``"Ms"`` that others wrote is left as it is.

    Of an ensemble the velocities are means over its members. ``obs["velocity_uncertainty"]`` then
    says how far these disagree: their standard deviation relative to the root mean square speed,
    from 0, where all say the same, to 1, where no direction is left; NaN for cells without a time.
    ``obsm["velocity_pca_std"]`` has the deviation of each dimension.

    Parameters
    ----------
    adata, fit
        As in :func:`simulate`.
    basis
        An embedding, such as ``"umap"``, to project velocities into as well; scVelo and
        :func:`cellflow.pl.velocity` draw streams from it.
    genes
        Whether to write velocities of genes as a layer, dense, for :func:`scvelo.tl.velocity_graph`
        and whatever else reads them; when omitted, for fits to ``X`` that was in memory.
    key_added
        First part of the keys that are written.
    """
    _checks.key(key_added, "key_added")
    rep, times, x = states_and_times(adata, fit)
    timed = np.isfinite(times)
    several, d = isinstance(fit, Ensemble), fit.course.dim
    full, uncertain = np.zeros_like(x), np.full(len(x), np.nan)
    std = np.zeros_like(x) if several else full
    rows = np.flatnonzero(timed)
    for part in np.array_split(rows, max(1, len(rows) // _BLOCK)):
        answer = fit.velocity(times[part], x[part, :d])
        mean = answer.mean if isinstance(answer, Spread) else answer
        full[part, :d] = mean.cpu().numpy()
        if isinstance(answer, Spread):
            std[part, :d] = answer.std.cpu().numpy()
            off = answer.std.square().sum(1)
            speed = off + answer.mean.square().sum(1)
            uncertain[part] = torch.where(speed > 0, (off / speed).sqrt(), 0.0).cpu().numpy()
    order = order_of_genes(adata, fit)
    if order is not None and full.shape[1] == len(order):  # back to the order of these cells
        back = np.argsort(order)
        full, std = full[:, back], std[:, back]
    short = rep.removeprefix("X_")
    written = {f"{key_added}_{short}": full}
    if basis is not None and basis.removeprefix("X_") != short:
        if rep == "X" and "components" in fit.origin:
            why = "for a fit to expression on disk, whose components are not written down"
            remedy = "Run cellflow.pp.pca(adata) once, and fit with use_rep='X_pca'."
            raise ValueError(_checks.message("basis", f"{basis!r} {why}", "None", remedy))
        name, v = basis.removeprefix("X_"), full[:, :d]
        written[f"{key_added}_{name}"] = project_velocity(adata, v, use_rep=rep, basis=name)
    if several:
        written[f"{key_added}_{short}_std"] = std
    if genes is None:
        genes = rep == "X" and "components" not in fit.origin
    ours = "Ms" not in adata.layers or bool(adata.uns.get(f"{key_added}_fit", {}).get("Ms"))
    if genes:
        names, rates, expressed = _in_genes(adata, fit, full[:, :d], x[:, :d])
        adata.layers[key_added] = rates
        adata.var[f"{key_added}_genes"] = adata.var_names.isin(names)
        if ours:
            adata.layers["Ms"] = expressed
    adata.obsm.update(written)
    adata.uns[f"{key_added}_fit"] = {
        "method": fit.method.name,
        "use_rep": rep,
        "n_dims": fit.course.dim,
        "unit": f"data units per {fit.course.unit}",
        "n_without_time": int((~timed).sum()),
        "Ms": ours and "Ms" in adata.layers,
    }
    if isinstance(fit, Ensemble):
        adata.obs[f"{key_added}_uncertainty"] = uncertain
        adata.uns[f"{key_added}_fit"]["members"] = len(fit)


def _in_genes(
    adata: AnnData, fit: Fit | Ensemble, velocity: np.ndarray, states: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the genes of the fit, and `velocity` and `states` ``(n, d)`` in those of `adata`.

    The latter have shape ``(n, g)``, and zeros in other genes.
    """
    names, found = readout_of(fit.origin)
    places = places_of(adata, names)
    rates, expressed = (np.zeros((adata.n_obs, adata.n_vars), states.dtype) for _ in range(2))
    if found is not None:
        velocity = found.invert_vectors(torch.from_numpy(velocity)).numpy()
        states = found.invert(torch.from_numpy(states)).numpy()
    rates[:, places], expressed[:, places] = velocity, states
    return names, rates, expressed


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
    makes of it: RNA velocities permuted `n_permutations` times between the cells of a time, by the
    seed or generator `rng`. See :func:`cellflow.answers.agreement`. RNA velocity is an estimate
    itself, and no truth. Of an ensemble, the mean velocity is compared; `adata` and `fit` are as in
    :func:`velocity`.

    The RNA velocity `velocity_key` is a key of ``obsm``, in the columns of the representation that
    the fit is on; or one of ``layers``, such as scVelo's ``"velocity"``, which is carried into that
    representation by its loadings, with NaN, of genes without a velocity, as zero.

    The table has one row for each time, and one for all together (time NaN): ``cells`` that have
    both velocities, ``mean`` cosine with its 95 % interval ``low`` to ``high``, ``chance``, the
    mean after permutation, and ``p``, of a mean as high, of which the smallest possible is one over
    one more than the permutations. Times at which no cell has an RNA velocity are left out. The
    same is in ``uns["velocity_agreement"]``; ``obs["velocity_agreement"]`` has the cosine of each
    cell, NaN where there is none.
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
