"""Expression of genes over real time, along a fate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng
from cellflow.answers import trends
from cellflow.pp.components import MEMORY, expression_chunks
from cellflow.tl._genes import chances_of, columns_of, expression_of, times_of

#: What stands for a fate where all cells count alike.
ALL = "all"


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

    Returns
    -------
    DataFrame
        One row for each fate, gene and ``time``, with the ``mean`` and its pointwise 95 % band over
        the cells sampled, ``low`` to ``high``. The fate is ``"all"`` where all cells count alike.
        The same is in ``uns["gene_trends"]``.
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
