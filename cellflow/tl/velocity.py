"""Velocities of observed cells, where scanpy's neighbours look for them."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow.fits import Ensemble, Fit, Spread
from cellflow.tl._genes import places_of, readout_of
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

    Returns
    -------
    None
        Writes ``obsm["velocity_pca"]`` (named after the representation), in data units per unit
        of time and of the representation's shape, with zeros in dimensions that were not
        modelled and for cells without a time; with `basis`, also ``obsm["velocity_umap"]``; and
        ``uns["velocity_fit"]``, which says which fit they are from and how many cells had no time.

        With `genes`, ``layers["velocity"]`` in units of expression per unit of time, zero for genes
        that the components leave out, and ``var["velocity_genes"]``, which genes they do not;
        ``layers["Ms"]``, the expression that the states stand for, without a floor, so that
        differences between cells are those of the representation. An ``"Ms"`` that others wrote
        is left as it is.

        Of an ensemble the velocities are means over its members. ``obs["velocity_uncertainty"]``
        then says how far these disagree: their standard deviation relative to the root mean
        square speed, from 0, where all say the same, to 1, where no direction is left; NaN for
        cells without a time. ``obsm["velocity_pca_std"]`` has the deviation of each dimension.
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
