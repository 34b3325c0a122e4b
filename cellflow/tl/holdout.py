"""Hold-out evaluation of the cells of an AnnData."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from anndata import AnnData

from cellflow import _checks, evaluate
from cellflow.evaluate import HoldoutProtocol, HoldoutTable
from cellflow.methods import Method
from cellflow.pp.reading import Reading
from cellflow.several import join_process_group
from cellflow.tl._reading import read_course, resolve_method, warn_of_unused_growth


def holdout(
    adata: AnnData,
    *,
    time_key: str,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    whiten: bool = False,
    method: str | Method | Sequence[str | Method] = "reach",
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    time: str = "physical",
    mass_key: str | None = None,
    growth_key: str | None = None,
    solver: str = "rk4",
    preprocess_on: str = "all",
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> HoldoutTable:
    """Predict each interior time point from the others, beside predictions without a model.

    Parameters
    ----------
    adata
        Cells of at least three time points; it is not changed.
    time_key, use_rep, n_dims, whiten, mass_key, growth_key, time_map, missing, unit, progress
        As in :func:`cellflow.tl.fit`.
    method
        One or several methods of distinct names, by name or as objects; ``"auto"`` chooses for
        each time point, on the others.
    steps
        Training steps of each fit.
    seeds
        Number of seeds (0, 1, …), or the seeds; verdicts know how much fits differ from two on.
    time
        ``"physical"`` for the times of the data, ``"index"`` for 0, 1, 2, ….
    solver
        How predictions are made: see :func:`cellflow.simulate.simulate`.
    preprocess_on
        ``"all"`` fits components and scales on all cells, ``"train"`` without the held-out ones.
    workers
        Processes to share the fits, each with one thread; as many as there are cores when
        omitted. The table is the same. Under ``torchrun`` its processes share the fits, too.

    Returns
    -------
    HoldoutTable
        See :func:`cellflow.evaluate.holdout`; print it, or draw it with
        :func:`cellflow.pl.holdout`.
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, growth_key=growth_key)
    keys = replace(keys, time_map=time_map, missing=missing, unit=unit)
    ranks = join_process_group()
    asked = [method] if isinstance(method, str | Method) else _checks.several(method, "method")
    recipes = [resolve_method(m) for m in asked]
    if growth_key is not None:
        warn_of_unused_growth(recipes)
    cells, index, n_components = read_course(adata, keys)
    if index.components is not None and preprocess_on == "train":
        got, remedy = "'train' for expression on disk", "Read it all first: adata.to_memory()."
        raise ValueError(_checks.message("preprocess_on", got, "'all'", remedy))
    protocol = HoldoutProtocol(time=time, solver=solver, preprocess_on=preprocess_on)
    return evaluate.holdout(
        cells,
        recipes,
        steps=steps,
        seeds=seeds,
        protocol=replace(protocol, n_components=n_components, whiten=whiten),
        workers=workers,
        progress=progress and ranks.is_main,
        ranks=ranks,
    )
