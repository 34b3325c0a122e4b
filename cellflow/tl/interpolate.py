"""The population at a time between those that were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellflow._typing import Rng
from cellflow.answers import labels_at
from cellflow.fits import Ensemble, Fit, Interpolation
from cellflow.pp.genes import pca_keys
from cellflow.timecourse import Snapshot
from cellflow.tl._reading import time_of
from cellflow.tl.expression import Decoder, Wanted, decode


def interpolate(
    fit: Fit | Ensemble,
    *,
    time: float | str,
    n_cells: int | None = None,
    weighted: bool = True,
    solver: str = "rk4",
    rng: Rng = 0,
    genes: Sequence[str] | None = None,
    decoder: Decoder | None = None,
    floor: bool = True,
) -> AnnData:
    """Cells of the population at any time, as an AnnData to carry on with in scanpy.

    The cells of the last snapshot before `time` are carried forward to it, by the default method
    also those of the next one back; by an ensemble, each of them by every member. Where the method
    learned growth, cells count by ``obs["mass"]``; ask for equal ones with ``weighted=False``.

    Parameters
    ----------
    fit
        What :func:`cellflow.tl.fit` or :func:`cellflow.load` returned; no AnnData is needed.
    time
        Time asked for: a number in the fit's unit, or a label of a time, such as ``"E7.6"``.
    n_cells
        How many cells; those of these snapshots, each once, when omitted. More than these are drawn
        again: see :meth:`cellflow.fits.Fit.interpolate`. Of an ensemble, so many by each member.
    weighted
        Whether cells carry their masses; if not, `n_cells` (as many as the earlier snapshot has)
        are drawn in proportion to mass and count the same.
    solver, rng
        As in :func:`cellflow.tl.simulate`; the choice of cells is random, too.
    genes, decoder, floor
        As in :func:`cellflow.tl.expression`. An empty list of genes leaves them out.

    Returns
    -------
    AnnData of shape ``(n, genes)`` with expression in ``X``, genes named as in the data, and the
    states in ``obsm[use_rep]`` (of a fit to expression on disk ``obsm["X_pca"]``), with their
    loadings in ``varm``; of shape ``(n, 0)`` where the fit has no way back to genes. Besides
    ``obs[time_key]``, ``obs["mass"]`` (grown where the method learned growth) and
    ``uns["interpolation"]``: in its ``cut`` how much the floor took away, as shares of ``entries``
    and, relative to what is left, of ``mass``. If the fit has labels, the
    column of its `label_key` has that of the place which a cell reached, by the observed cells
    around it at the nearest times, ``obsm["<label_key>_probability"]`` how sure that is, and
    ``obs["origin_<label_key>"]`` the label of the cell that it was carried from. Of an ensemble,
    the cells of all members as one population, with ``obs["member"]``, ``obs["cell"]``, the number
    of the cell that was carried, and ``obs["spread"]``, how far from each other the members took
    that cell: the root of its squared distance to their mean, averaged over them, in data units.
    """
    time = time_of(fit, time)
    snapshot = fit.interpolate(
        time, n_cells=n_cells, weighted=weighted, solver=solver, generator=rng
    )
    several: dict[str, Any] = {}
    if isinstance(snapshot, Interpolation):
        m, n = len(snapshot.members), len(snapshot.members[0])
        spread = snapshot.states.std.square().sum(1).sqrt().cpu().numpy()
        several = {
            "member": pd.Categorical(np.repeat(np.arange(m), n)),
            "cell": np.tile(np.arange(n), m),
            "spread": np.tile(spread, m),
        }
        snapshot = snapshot.pooled
    x = snapshot.x.cpu().numpy()
    columns = {fit.origin.get("time_key", "time"): np.full(len(x), time)}
    columns |= {"mass": snapshot.mass.cpu().numpy(), **several}
    obs = pd.DataFrame(columns, index=[f"predicted-{i}" for i in range(len(x))])
    tables = {} if snapshot.labels is None else _label(obs, fit, snapshot)
    out = _population(fit, x, obs, Wanted(genes, decoder, floor))
    out.obsm.update(tables)
    out.uns["interpolation"] |= {
        "method": fit.method.name,
        "time": time,
        "unit": fit.course.unit,
        "observed_times": np.array(fit.course.times),
    }
    if several:
        out.uns["interpolation"]["members"] = len(fit)  # type: ignore[arg-type] # an Ensemble
    return out


def _population(fit: Fit | Ensemble, x: np.ndarray, obs: pd.DataFrame, wanted: Wanted) -> AnnData:
    """Return states `x` ``(n, d)`` as an AnnData, in genes where there is a way to them."""
    rep, found = fit.origin.get("use_rep", "X_state"), fit.origin.get("components")
    states = {"X_pca" if rep == "X" else rep: x} if rep != "X" or found is not None else {}
    told: dict[str, Any] = {}
    none = wanted.genes is not None and len(wanted.genes) == 0
    if states and (none or found is wanted.decoder is None):
        return AnnData(obs=obs, obsm=states, uns={"interpolation": told})
    decoded = decode(fit, x, wanted)
    if decoded.cut:
        told["cut"] = decoded.cut
    var = pd.DataFrame(index=decoded.names)
    out = AnnData(decoded.values, obs, var, obsm=states, uns={"interpolation": told})
    if decoded.loadings is not None:
        out.varm[pca_keys("X_pca" if rep == "X" else rep)[0]] = decoded.loadings.cpu().numpy()
    return out


def _label(obs: pd.DataFrame, fit: Fit | Ensemble, cells: Snapshot) -> dict[str, pd.DataFrame]:
    """Write labels of `cells` into `obs`: where they came from, and of the place they reached.

    Returns the probabilities of the latter by their key in ``obsm``. Observed cells are what they
    are.
    """
    key = fit.origin.get("label_key") or "label"
    obs[f"origin_{key}"] = obs[key] = pd.Categorical(cells.labels)
    if cells.time in fit.course.times:
        return {}
    names, shares = labels_at(fit.course, cells, preprocessing=fit.preprocessing)
    table = pd.DataFrame(shares.numpy(), obs.index, names)
    obs[key] = pd.Categorical(table.idxmax(axis=1), categories=names)
    return {f"{key}_probability": table}
