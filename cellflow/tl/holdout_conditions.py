"""Hold-out evaluation of the conditions of an AnnData."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anndata import AnnData

from cellflow import evaluate
from cellflow.conditions import Condition
from cellflow.evaluate import HoldoutTable
from cellflow.methods import Method
from cellflow.pp.conditions import ConditionKeys
from cellflow.pp.reading import Reading
from cellflow.tl._reading import preprocessing_of, read_course, resolve_methods


def holdout_conditions(
    adata: AnnData,
    *,
    condition_key: str | Sequence[str],
    control: str | Mapping[str, Any],
    time_key: str | None = None,
    covariates: Mapping[str, object] | None = None,
    across: str | Sequence[str] | None = None,
    nuisance: str | Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    whiten: bool = False,
    method: str | Method | Sequence[str | Method] = "otcfm",
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    guidance: float | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> HoldoutTable:
    """Predict each condition without its cells, beside predictions without a model.

    Parameters
    ----------
    adata
        Cells of the control and of other conditions; it is not changed.
    time_key, use_rep, n_dims, whiten, time_map, missing, unit
        As in :func:`cellflow.tl.fit`.
    condition_key, control, covariates, across, nuisance
        As in :func:`cellflow.tl.fit`.
    conditions
        As in :func:`cellflow.evaluate.holdout_conditions`.
    method, steps, seeds, workers, progress
        As in :func:`cellflow.tl.holdout`.
    guidance
        As in :func:`cellflow.evaluate.holdout_conditions`.

    Returns
    -------
    HoldoutTable
        See :func:`cellflow.evaluate.holdout_conditions`; print it, or draw it with
        :func:`cellflow.pl.holdout`.
    """
    told = ConditionKeys(condition_key, covariates, control, across, nuisance)
    keys = Reading(time_key, use_rep, n_dims, whiten, time_map=time_map, conditions=told)
    cells, _, n_components = read_course(adata, replace(keys, missing=missing, unit=unit))
    if prep := preprocessing_of([s.x for s in cells.snapshots], n_components, whiten):
        cells = cells.map(prep.apply)
    return evaluate.holdout_conditions(
        cells,
        resolve_methods(method),
        conditions=conditions,
        steps=steps,
        seeds=seeds,
        guidance=guidance,
        workers=workers,
        progress=progress,
    )
