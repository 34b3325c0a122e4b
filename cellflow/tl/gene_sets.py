"""Sets of genes whose knock-out together, by the fit, leads cells to a group."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from anndata import AnnData

from cellflow import _checks
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers import Sampler, effect_on_fates
from cellflow.answers import gene_sets as drawn_sets
from cellflow.fits import Ensemble, Fit
from cellflow.tl._changes import bend, cells_at, measure, pool_of, steps_of, where_in
from cellflow.tl._genes import expression_of


def gene_sets(
    adata: AnnData,
    fit: Fit | Ensemble,
    genes: Sequence[str],
    *,
    group: str,
    size: int = 3,
    beta: float = 1.0,
    sampler: Sampler | None = None,
    label_key: str | None = None,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Draw sets of genes by how much a group gains where they are knocked out together.

    Each set is knocked out in the cells of the first time, as :func:`perturb` does with one gene,
    and what the group's mean probability at the last time gains is its effect; a loss is none. Sets
    come in proportion to a power of it (:func:`cellflow.answers.gene_sets`). It is an effect on the
    fit and no cause; genes add up along their loadings, and what is more than a sum is of the flow.

    Parameters
    ----------
    adata, fit, label_key
        As in :func:`perturb`.
    genes
        Names that sets are made of.
    group
        Label of the cells at the last time that should become more.
    size
        Genes of a set at most.
    beta
        Power of the effect: the larger, the more the best sets come.
    sampler
        ``cellflow.answers.GFlowNet()`` when omitted, which needs torchgfn. With few sets,
        ``cellflow.answers.all_sets`` draws exactly.
    rng
        Seed or generator of noise, training and draws.

    Returns
    -------
    DataFrame
        One row for each set that was drawn, the most frequent first: ``genes``, joined by ``+``,
        their ``number``, the ``effect``, the ``frequency`` among 1,000 draws, and the
        ``probability`` that it should be. The same is in ``uns["gene_sets"]``, and
        ``uns["gene_sets_fit"]`` has log Z, the number of sets whose effect was asked for, and
        where all were listed also the exact log Z, the total variation between frequencies and
        probabilities, and its ``noise``, that of as many exact draws.
    """
    names, stored = expression_of(adata, None)
    pool = pool_of(adata, fit, names)
    pool = pool.of(where_in(pool, names, genes))
    start, ends, rows = cells_at(adata, fit, label_key=label_key, times=None)
    _checks.choice(group, sorted({g for g in ends.labels or () if g is not None}), "group")
    steps = steps_of(stored, measure(stored, rows), pool.columns, change="knock-out")
    at, seed = {gene: k for k, gene in enumerate(pool.names)}, draw_seed(rng)

    def effect(sets: list[tuple[str, ...]]) -> Tensor:
        chosen = [[at[gene] for gene in one] for one in sets]
        moved = (start.x + (steps[:, k] @ pool.loadings[k].double()).to(start.x) for k in chosen)
        bends = (bend(pool.loadings[k].to(start.x), 0.0) for k in chosen)
        found = effect_on_fates(fit, start, moved, ends=ends, bends=bends, generator=seed)
        return found.effect[:, found.groups.index(group)].clamp(min=0)

    found = drawn_sets(effect, pool.names, size=size, beta=beta, sampler=sampler, generator=seed)
    columns = {"effect": found.effect, "frequency": found.frequency}
    columns["probability"] = found.probability
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    table.insert(0, "genes", [" + ".join(one) for one in found.sets])
    table.insert(1, "number", [len(one) for one in found.sets])
    adata.uns["gene_sets"] = table.copy()
    told = ("log_z", "exact_log_z", "total_variation", "noise", "n_evaluated")
    about = {name: getattr(found, name) for name in told}
    adata.uns["gene_sets_fit"] = {k: v for k, v in about.items() if v is not None}
    return table
