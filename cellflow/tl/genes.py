"""Genes that go with a fate, lead to it, or change on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers import correlations, fate_gradient, trends
from cellflow.answers.drivers import WIDTH
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import column_of
from cellflow.pp.components import MEMORY, expression_chunks
from cellflow.timecourse import Snapshot
from cellflow.tl._genes import (
    chances_of,
    columns_of,
    expression_of,
    fates_in,
    loadings_of,
    times_of,
)
from cellflow.tl._reading import states_and_times
from cellflow.tl.fates import OTHER

METHODS = ("correlation", "gradient")
#: What stands for a fate where all cells count alike.
ALL = "all"


def drivers(
    adata: AnnData,
    fate: str,
    *,
    key: str = "fates",
    method: str = "correlation",
    layer: str | None = None,
    time_key: str | None = None,
    fit: Fit | Ensemble | None = None,
    neighbours: int = 15,
) -> pd.DataFrame:
    """Rank genes by how they go with a fate, or by how the flow says that they lead to it.

    By ``"correlation"`` of their expression with the probability of the fate, over the cells
    observed before the end; cells count as independent, their probabilities as known. By
    ``"gradient"`` of the log probability along the flow, a mean over these cells, brought back to
    genes by the components that the fit was made on: what one unit more of a gene would change.
    See :func:`cellflow.answers.correlations` and :func:`cellflow.answers.fate_gradient`.

    The table has one row a gene, the highest first. By correlation: ``correlation``, its 95 %
    interval ``low`` to ``high``, ``p_value`` and ``fdr`` (Benjamini and Hochberg); NaN for a gene
    that is the same in all cells. By gradient: ``gradient``, with the 95 % interval of a mean over
    these cells, and of an ensemble ``member_std``, the standard deviation between members; genes
    that the components leave out are not in the table. The same is in ``uns["drivers_<fate>"]``,
    where a slash in the name of a fate is an underscore.

    Parameters
    ----------
    adata
        Cells after :func:`fates`.
    fate
        A column of ``obsm["fates"]``.
    key
        Key of the fates in ``obsm`` and ``uns``.
    method
        ``"correlation"`` or ``"gradient"``.
    layer
        A layer, or ``"raw"``, to correlate with; ``X`` when omitted.
    time_key
        Column of ``obs``; that of the fit behind the fates when omitted.
    fit
        The fit or ensemble, for the gradient.
    neighbours
        Observed cells that say how a path ends, for the gradient. More of them see farther: a cell
        that ends amid one group has no gradient.
    """
    _checks.choice(method, METHODS, "method")
    p = chances_of(adata, key, fate)
    told = adata.uns.get(key)
    if told is None or "time" not in told:
        got, remedy = f"no uns[{key!r}]", "Call cellflow.tl.fates(adata, fit) first."
        raise ValueError(_checks.message("key", got, "fates with their time", remedy))
    if method == "correlation":
        times = times_of(adata, key, time_key)
        if not (times == told["time"]).any():
            got = f"no cell at the time of the fates, {told['time']:g}"
            raise ValueError(_checks.message("time_key", got, "the times of the fates"))
        early = np.isfinite(p) & (times != told["time"])
        found = _by_correlation(*expression_of(adata, layer), p, early)
    elif fit is None:
        raise ValueError(_checks.message("fit", "None", "a fit or an ensemble, for the gradient"))
    else:
        found = _by_gradient(adata, fit, fate, key=key, neighbours=neighbours)
    found = found.sort_values(method, ascending=False, kind="stable")
    adata.uns[f"drivers_{fate}".replace("/", "_")] = found.copy()
    return found


def _by_correlation(
    names: list[str], stored: Any, p: np.ndarray, cells: np.ndarray
) -> pd.DataFrame:
    def blocks() -> Iterator[tuple[Any, Tensor]]:
        for part, block in expression_chunks(stored, cells, None, memory=MEMORY):
            yield block, torch.from_numpy(p[part][cells[part]])

    found = correlations(blocks())
    columns = ("correlation", "low", "high", "p_value", "fdr")
    values = {column: getattr(found, column).numpy() for column in columns}
    return pd.DataFrame(values, index=pd.Index(names, name="gene"))


def _by_gradient(
    adata: AnnData, fit: Fit | Ensemble, fate: str, *, key: str, neighbours: int
) -> pd.DataFrame:
    names, loadings = loadings_of(adata, fit)
    _, times, states = states_and_times(adata, fit)
    x, told = torch.from_numpy(states[:, : fit.course.dim]), adata.uns[key]
    groups = {str(column) for column in fates_in(adata, key).columns}
    column = column_of(adata, told["label_key"], "label_key")
    there = np.flatnonzero((times == told["time"]) & column.notna().to_numpy())
    labels = [str(v) if str(v) in groups else OTHER for v in column.iloc[there]]
    if fate not in labels:
        got = f"no cell of {fate!r} at time {told['time']:g}"
        raise ValueError(_checks.message("fate", got, "a group of cells at the end"))
    ends, parts = Snapshot(x[there], told["time"], labels=labels), []
    for time in np.unique(times[times < told["time"]]):
        start = Snapshot(x[np.flatnonzero(times == time)], float(time))
        parts.append(fate_gradient(fit, start, ends, group=fate, neighbours=neighbours).members)
    members = torch.cat(parts, 1) if parts else torch.empty(1, 0, 0)
    members = members[:, members.isfinite().all(2).all(0)]
    n = members.shape[1]
    if n < 2:
        got = f"{n} cells whose paths come near to {fate!r}"
        raise ValueError(_checks.message("fate", got, "two or more", "Raise `neighbours`."))
    slopes, back = members.mean(0), loadings.double()
    mean = slopes.mean(0) @ back.T
    error = (((back @ slopes.T.cov()) * back).sum(1) / n).sqrt()
    values = {"gradient": mean, "low": mean - WIDTH * error, "high": mean + WIDTH * error}
    if len(members) > 1:
        values["member_std"] = (members.mean(1) @ back.T).std(0)
    return pd.DataFrame({k: v.numpy() for k, v in values.items()}, pd.Index(names, name="gene"))


def gene_trends(
    adata: AnnData,
    genes: str | Sequence[str],
    *,
    fate: str | Sequence[str] | None = None,
    key: str = "fates",
    time_key: str | None = None,
    layer: str | None = None,
    n_splines: int = 8,
    n_boot: int = 200,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Mean expression of genes over real time, smooth, among the cells that head for a fate.

    Each cell counts with its probability of the fate; cells observed at the end have the group
    that they are in. See :func:`cellflow.answers.trends`.

    The table has one row for each fate, gene and ``time``, with the ``mean`` and its pointwise 95 %
    band over the cells sampled, ``low`` to ``high``. The fate is ``"all"`` where all cells count
    alike. The same is in ``uns["gene_trends"]``.

    Parameters
    ----------
    adata
        Cells with expression and times; of a fate, after :func:`fates`.
    genes
        Names of genes.
    fate
        One or several columns of ``obsm["fates"]``; when omitted, all cells count alike.
    key, time_key, layer
        As in :func:`drivers`.
    n_splines
        Number of cubic B-splines, at least four: the finest curve that there may be.
    n_boot
        Bootstrap draws of cells within time points behind the bands.
    rng
        Seed or generator of the bootstrap.
    """
    names, stored = expression_of(adata, layer)
    asked, columns = columns_of(names, genes)
    wanted = [fate] if fate is None or isinstance(fate, str) else list(fate)
    if not wanted:
        raise ValueError(_checks.message("fate", "none", "None, or names of fates"))
    n = adata.n_obs
    chances = [np.ones(n) if name is None else chances_of(adata, key, name) for name in wanted]
    times, seed = times_of(adata, key, time_key), draw_seed(_checks.as_generator(rng, "rng"))
    known, y = np.isfinite(times), np.empty((n, len(asked)))
    for part, block in expression_chunks(stored, None, columns, memory=MEMORY):
        y[part] = block if isinstance(block, np.ndarray) else block.toarray()
    tables = []
    for name, p in zip(wanted, chances, strict=True):
        cells = known & np.isfinite(p)
        moments = np.unique(times[cells]).tolist()
        rows = [np.flatnonzero(cells & (times == time)) for time in moments]
        values, weights = ([torch.from_numpy(of[part]) for part in rows] for of in (y, p))
        found = trends(values, moments, weights, n_splines=n_splines, n_boot=n_boot, generator=seed)
        for k, gene in enumerate(asked):
            curve = {v: getattr(found, v)[:, k].numpy() for v in ("mean", "low", "high")}
            about = {"gene": gene, "fate": name or ALL, "time": found.times.numpy()}
            tables.append(pd.DataFrame(about | curve))
    out = pd.concat(tables, ignore_index=True)
    adata.uns["gene_trends"] = out.copy()
    return out
