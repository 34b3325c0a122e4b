"""Perturbation of genes: what it does to the fates of cells, by the fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import false_discovery_control

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.answers.perturbation import Effects, effect_on_fates, most_alike, p_value
from cellflow.fits import Ensemble, Fit
from cellflow.tl._changes import bend, cells_at, gains, measure, pool_of, steps_of, where_in
from cellflow.tl._genes import expression_of
from cellflow.tl._reading import label_key_of

CHANGES = ("knock-out", "up", "down")


def perturb(
    adata: AnnData,
    fit: Fit | Ensemble,
    genes: str | Sequence[str],
    *,
    change: str | float = "knock-out",
    label_key: str | None = None,
    times: tuple[float | str, float | str] | None = None,
    n_null: int = 100,
    n_futures: int = 20,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Change genes, each by itself, and tell what that does to the fates of cells.

    The change of expression moves a cell in the representation of the fit: by the loadings of
    ``varm["PCs"]``, or directly where the fit is to ``X``. A knock-out lasts: what the gene would
    gain along the way is taken from the cell, so that a gene has an effect that is not yet on at
    the start; a number multiplies this gain as well. Fates of the moved cells are compared
    with those of the same cells unmoved, under the same noise
    (:func:`cellflow.answers.perturbation.effect_on_fates`), and the effect with those of other
    genes that are expressed and loaded alike, each brought in proportion to the distance by which
    the gene moves cells: nothing moves them as far as the gene of the longest loading.

    It is an effect on the fit, which has seen what goes along with what, and no cause: a marker
    that a fate switches on has as much effect as the gene which decides it, and where many
    have, they are in each other's null. A gene whose loss stops cells before they choose leaves the
    cells that were measured, and what the fit says there is a guess. Take the answer as a list to
    test. In simulated networks, whose knock-outs are known, the signs of genes that decide are
    mostly right, and a marker cannot be told from them (:doc:`/benchmarks`).

    Parameters
    ----------
    adata
        Cells that the fit was made from. ``X`` is log-normalised expression.
    fit
        A fit or an ensemble to ``obsm["X_pca"]`` or ``X``.
    genes
        Names of genes.
    change
        ``"knock-out"`` sets a gene to zero and keeps it there, and a number multiplies it at the
        start and what it gains later. ``"up"`` and ``"down"`` move it at the start only, by its
        standard deviation over all cells, not below zero.
    label_key
        Column of ``obs`` with the groups; that of the fit when omitted.
    times
        Observed times at which cells are changed, and at which their fates are read; the first and
        the last of the fit when omitted.
    n_null
        Other genes in the null: those nearest in log mean expression, over the changed cells, and
        in length of loading. Fewer where there are no more.
    n_futures
        Futures of each cell by each member, where the method learned noise; one otherwise.
    rng
        Seed or generator of the noise.

    Returns
    -------
    DataFrame
        One row for each gene and group: ``effect``, the change of the group's mean probability,
        by mass; ``standard_error``, paired over cells, which says nothing of the error of a fit;
        of an ensemble ``member_std``, the standard deviation between members; ``p``, the share of
        the gene and its null whose effect is as large, with ``n_null`` genes in it, of which the
        middle 95 % reach from ``null_low`` to ``null_high``; and ``fdr`` over all rows (Benjamini
        and Hochberg). The same is in ``uns["perturbation"]``.
    """
    if isinstance(change, str):
        _checks.choice(change, CHANGES, "change")
    else:
        _checks.number(change, "change", low=0)
    n_null, generator = _checks.count(n_null, "n_null"), _checks.as_generator(rng, "rng")
    names, stored = expression_of(adata, None)
    pool = pool_of(adata, fit, names)
    asked = where_in(pool, names, genes)
    start, ends, rows = cells_at(adata, fit, label_key=label_key, times=times)
    measured = measure(stored, rows)
    mean = measured.mean[pool.columns]
    least = mean[mean > 0].min() if (mean > 0).any() else 1.0
    # Log mean expression and length of loading of each gene of the pool.
    alike = torch.stack([torch.from_numpy(np.log(np.maximum(mean, least))), pool.size], 1)
    nulls = {k: most_alike(alike, k, n_null).tolist() for k in asked}
    if not all(nulls.values()):
        raise ValueError(_checks.message("fit", "a single gene with a loading", "others beside it"))
    chosen = sorted(set(asked).union(*nulls.values()))
    some = pool.of(chosen)
    steps = steps_of(stored, measured, some.columns, change=change)
    moved = (
        start.x + (step[:, None] * to.double()).to(start.x)
        for step, to in zip(steps.T, some.loadings, strict=True)
    )
    factor = 0.0 if change == "knock-out" else change
    bends = None
    if not isinstance(factor, str):
        bends = [bend(to[None].to(start.x), factor) for to in some.loadings]
        steps = steps.abs() + abs(factor - 1) * gains(fit, start, ends.time, some.loadings)
    found = effect_on_fates(
        fit, start, moved, ends=ends, bends=bends, n_futures=n_futures, generator=generator
    )
    far = start.weights @ steps.abs() * some.size
    table = _table(found, far, {pool.names[k]: (k, nulls[k]) for k in asked}, chosen=chosen)
    adata.uns["perturbation"] = table.copy()
    key = label_key_of(fit.origin, label_key)
    adata.uns["perturbation_fit"] = {"label_key": key, "change": change}
    return table


def _table(
    found: Effects, far: Tensor, asked: dict[str, tuple[int, list[int]]], *, chosen: list[int]
) -> pd.DataFrame:
    """One row for each asked gene and each group, against its null.

    Changes move cells as `far` as they do, ``(m,)``.
    """
    at, tables = {k: row for row, k in enumerate(chosen)}, []
    for gene, (k, others) in asked.items():
        row = at[k]
        beside = [at[other] for other in others]
        scale = torch.where(far[beside] > 0, far[row] / far[beside], 0.0)
        null = found.effect[beside] * scale[:, None]
        columns = {
            "gene": gene,
            "group": list(found.groups),
            "effect": found.effect[row].numpy(),
            "standard_error": found.standard_error[row].numpy(),
            "p": p_value(found.effect[row], null).numpy(),
            "n_null": len(null),
            "null_low": null.quantile(0.025, 0).numpy(),
            "null_high": null.quantile(0.975, 0).numpy(),
        }
        if found.member_std is not None:
            columns["member_std"] = found.member_std[row].numpy()
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True)
    table.insert(5, "fdr", false_discovery_control(table["p"]))
    return table
