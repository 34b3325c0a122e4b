"""Whether two conditions flow differently: where, when and in which genes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.answers.comparison import Comparison, FeatureDifferences
from cellflow.answers.comparison import compare as compared
from cellflow.methods import Method
from cellflow.pp.access import labels_of
from cellflow.pp.reading import Reading
from cellflow.tl._genes import readout_of
from cellflow.tl._reading import origin_of, preprocessing_of, read_course, resolve_method
from cellflow.training import FitOptions


def compare(
    adata: AnnData,
    *,
    condition_key: str,
    time_key: str,
    replicate_key: str | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    whiten: bool = False,
    mass_key: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    method: str | Method = "otcfm",
    steps: int = 300,
    n_permutations: int = 99,
    rng: Rng = 0,
    workers: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Tell whether the cells of two conditions flow differently: when, where, in which genes.

    A flow is fitted to each condition, and both again after conditions were permuted among the
    cells of each time: :func:`cellflow.answers.compare`. Without `replicate_key` cells count as
    independent: with several animals or dishes of a condition, differences between these are found
    as well.

    The table has one row for each time, and one for all together (time NaN): ``difference`` of
    velocities, root mean square over cells, in data units per unit of time, and ``p``. The same is
    in ``uns["comparison"]``, and the conditions, the unit of time and the number of labelings are
    in ``uns["comparison_fit"]``; ``obs["flow_difference"]`` has the difference at each cell, NaN
    for cells without a time.

    ``uns["comparison_genes"]`` has a row for each gene, the surest first, where the representation
    leads back to genes: ``effect``, the mean velocity of the second condition less that of the
    first, each over its own cells, mean over times; ``difference``, its root mean square over
    times; the ``p`` of this, and ``fdr`` (Benjamini and Hochberg).

    Parameters
    ----------
    adata
        Cells of two conditions, at least ten of each at every time.
    condition_key
        Column of ``obs`` with the condition.
    replicate_key
        Column of ``obs`` with the animal or dish of each cell, named once for all conditions:
        conditions are permuted among whole ones. Three of each condition at least, if they were
        observed at all times; fewer where each time has its own.
    time_key, use_rep, n_dims, whiten, mass_key, time_map, missing, unit, method, rng, progress
        As in :func:`fit`. Differences are in data units, and means over cells are by mass.
    steps
        Training steps of each fit; there are two for each permutation. A hundred permutations of
        the default take about a minute on two cores, of ``OTCFM(batching=Batching(64))`` half.
        With far fewer steps, a difference in some genes makes differences in others.
    n_permutations, workers
        The smallest possible p value is one over one more. Of `g` genes, the false discovery rate
        of `k` that no permutation equals is `g` over `k` times that. And processes, each with one
        thread; as many as there are cores when omitted: the answer is the same.
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, label_key=condition_key)
    keys = replace(keys, time_map=time_map, missing=missing, unit=unit)
    course, index, n_components = read_course(adata, keys, show=progress)
    origin, replicates = origin_of(adata, keys, course, index), None
    if replicate_key is not None:
        names = labels_of(adata, replicate_key, index.table.kept, name="replicate_key")
        replicates = [list(names[rows]) for rows in index.rows]
    found = compared(
        course,
        resolve_method(method),
        FitOptions(steps=steps, generator=_checks.as_generator(rng, "rng"), progress=progress),
        replicates=replicates,
        preprocessing=preprocessing_of([s.x for s in course.snapshots], n_components, whiten),
        readout=origin.get("components"),
        n_permutations=n_permutations,
        workers=workers,
    )
    out = _by_time(found)
    genes = None if "no_genes" in origin else _by_gene(readout_of(origin)[0], found.features)
    adata.uns.pop("comparison_genes", None)
    adata.uns["comparison"] = out.copy()
    if genes is not None:
        adata.uns["comparison_genes"] = genes
    adata.uns["comparison_fit"] = {
        "condition_key": condition_key,
        "conditions": np.array(found.conditions),
        "unit": course.unit,
        "labelings": found.labelings,
    }
    cells = np.full(adata.n_obs, np.nan)
    for rows, values in zip(index.rows, found.cells, strict=True):
        cells[rows] = values.numpy()
    adata.obs["flow_difference"] = cells
    return out


def _by_time(found: Comparison) -> pd.DataFrame:
    """Return a row for each time, and one for all together."""
    whole = float(found.difference.square().mean().sqrt())
    difference, p = [*found.difference.tolist(), whole], [*found.p_value.tolist(), found.overall]
    return pd.DataFrame({"time": [*found.times, np.nan], "difference": difference, "p": p})


def _by_gene(names: list[str], found: FeatureDifferences) -> pd.DataFrame:
    """Return a row for each gene, by p and then the size of the difference."""
    columns = {"effect": found.effect, "difference": found.difference}
    columns |= {"p": found.p_value, "fdr": found.fdr}
    values = {name: value.numpy() for name, value in columns.items()}
    out = pd.DataFrame(values, index=pd.Index(names, name="gene"))
    return out.sort_values(["p", "difference"], ascending=[True, False], kind="stable")
