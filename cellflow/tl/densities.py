"""Densities of cells: who is strange, where cells become more, and what batches add."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import ArrayLike, Rng
from cellflow.answers import batch_free as taken_out
from cellflow.answers import outliers
from cellflow.densities import Density
from cellflow.densities.flows import NSF
from cellflow.pp.access import column_of, labels_of
from cellflow.pp.times import parse_times, read_time
from cellflow.tl._reading import read_all, resolve_density


def outlier_score(
    adata: AnnData,
    *,
    reference: str | ArrayLike,
    method: str | Density = "nsf",
    false_positive_rate: float = 0.05,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    key_added: str = "outlier",
    rng: Rng = 0,
) -> None:
    """Find cells that a density of reference cells, such as controls, does not expect.

    Half of the reference cells are fitted, and half say from which score on a cell is called:
    :func:`cellflow.answers.outliers`.

    It writes ``obs["outlier_score"]``, the negative log-density in nats (per volume of the
    representation), ``obs["outlier_p"]``, the share of held-back reference cells as strange, and
    ``obs["outlier"]``, whether a cell is called. ``obs["outlier_fitted"]`` says which reference
    cells were fitted: these look less strange than they are. ``uns["outlier"]`` has the method, the
    rate, the threshold of the score and the number of cells held back.

    Parameters
    ----------
    adata
        Cells, the reference and the others; times are not needed.
    reference
        Column of ``obs`` that is true for the cells of the reference. Or a mask ``(n,)``, such as
        ``adata.obs["drug"] == "control"``.
    method
        Density to fit: a name of :data:`cellflow.densities.DENSITIES`, or one such as ``NSF()``.
    false_positive_rate
        Share of cells like the reference that may be called outliers.
    use_rep, n_dims, rng
        As in :func:`fit`. Many dimensions need many cells.
    steps
        Training steps at most; those of the density when omitted.
    key_added
        First part of the keys that are written.
    """
    key, density = _checks.key(key_added, "key_added"), resolve_density(method)
    given = column_of(adata, reference, "reference") if isinstance(reference, str) else reference
    mask = np.asarray(given)
    if mask.dtype != bool or mask.shape != (adata.n_obs,):
        got, expected = f"{mask.dtype} of shape {mask.shape}", f"true or false, ({adata.n_obs},)"
        raise ValueError(_checks.message("reference", got, expected))
    x = read_all(adata, use_rep, n_dims)
    found = outliers(
        x, x[mask], density, false_positive_rate=false_positive_rate, steps=steps, generator=rng
    )
    columns = {"": found.score > found.threshold, "_score": found.score, "_p": found.p_value}
    for name, values in columns.items():
        adata.obs[f"{key}{name}"] = values.cpu().numpy()
    fitted = adata.obs_names[mask][found.fitted.cpu().numpy()]
    adata.obs[f"{key}_fitted"] = adata.obs_names.isin(fitted)
    adata.uns[key] = {
        "method": type(density).__name__,
        "use_rep": use_rep,
        "false_positive_rate": false_positive_rate,
        "threshold": found.threshold,
        "n_held": len(found.calibration),
    }


def density_ratio(
    adata: AnnData,
    *,
    time_key: str,
    start: float | str,
    end: float | str,
    method: str | Density = "nsf",
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    key_added: str = "density_ratio",
    rng: Rng = 0,
) -> None:
    """Tell of each cell's place how much denser it is at one time than at another.

    It says where cells become more; whether they divided there or came from elsewhere, it does not.

    It writes ``obs["density_ratio"]``: the log-density of a cell's place at the end less that at
    the start, in nats, whatever time the cell is of, an extrapolation far from the cells of both.
    Shares of cells are compared, not numbers. ``uns["density_ratio"]`` has the times and the
    method.

    Parameters
    ----------
    adata, time_key
        As in :func:`fit`.
    start, end
        Times to compare: numbers, or labels such as ``"E7.5"``.
    method, use_rep, n_dims, steps, key_added, rng
        As in :func:`outlier_score`. A density is fitted to the cells of either time.
    """
    key, density = _checks.key(key_added, "key_added"), resolve_density(method)
    column = column_of(adata, time_key, "time_key")
    table = parse_times(column, missing="drop", name=f"obs[{time_key!r}]")
    labels = dict(zip(table.labels, table.times, strict=True))
    times = {"start": start, "end": end}
    times = {k: read_time(t, labels, unit=table.unit, name=k) for k, t in times.items()}
    for name, time in times.items():
        if time not in table.time_points or times["end"] == times["start"]:
            known = ", ".join(f"{t:g}" for t in table.time_points)
            raise ValueError(_checks.message(name, f"{time:g}", f"another one of {known}"))
    x, seed = read_all(adata, use_rep, n_dims), draw_seed(rng)
    before, after = (
        density.fit(x[table.kept[table.cell_times == t]], steps=steps, generator=seed)
        for t in times.values()
    )
    adata.obs[key] = (after.log_prob(x) - before.log_prob(x)).detach().cpu().numpy()
    adata.uns[key] = {**times, "method": type(density).__name__}


def batch_free(
    adata: AnnData,
    *,
    batch_key: str,
    label_key: str | None = None,
    reference: str | None = None,
    method: str | Density | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    steps: int | None = None,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Map the cells of all batches to where those of one batch would be, by densities.

    Whatever batches differ by is taken away, biology as well: see
    :func:`cellflow.answers.batch_free`. For batches of equal composition, such as halves of one
    sample; not for batches that are days or conditions.

    The table has rows ``"before"`` and ``"after"``: ``batch_accuracy``, how often nearest
    neighbours tell the batch of a cell that was left out, and its ``chance``; with a `label_key`
    also ``label_purity``, the share of nearest neighbours with a cell's own label, and
    ``label_transfer``, that among neighbours in other batches. The same is in
    ``uns["batch_free"]``, and the cells are in ``obsm["X_batch_free"]``.

    Parameters
    ----------
    adata
        Cells of two batches or more; times are not needed.
    batch_key
        Column of ``obs`` with the batch of each cell.
    label_key
        Column of ``obs`` with what should stay, such as the cell type: it is not used for the map.
    reference
        Batch whose cells stay where they are; that of most cells when omitted.
    method, use_rep, n_dims, steps, rng
        As in :func:`outlier_score`; a flow is fitted to each batch, one layer of splines unless
        told otherwise. Of several layers, fewer labels stay.
    """
    x, rows = read_all(adata, use_rep, n_dims), np.arange(adata.n_obs)
    found = taken_out(
        x,
        labels_of(adata, batch_key, rows, name="batch_key"),
        NSF(1) if method is None else resolve_density(method),
        labels=None if label_key is None else labels_of(adata, label_key, rows),
        reference=reference,
        steps=steps,
        generator=rng,
    )
    out = pd.DataFrame(found.scores, index=["before", "after"])
    adata.obsm["X_batch_free"] = found.x.cpu().numpy()
    adata.uns["batch_free"] = out.copy()
    return out
