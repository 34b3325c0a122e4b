"""Hold-out evaluation of the cells of an AnnData, and a diffusion by it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from anndata import AnnData

from cellflow import _checks, _doors, evaluate
from cellflow.evaluate import HoldoutProtocol, HoldoutTable, SigmaSweep, sigma_sweep, without_times
from cellflow.logging import shown
from cellflow.methods import SF2M, FlowMatching, Method
from cellflow.pp.reading import Reading
from cellflow.pp.times import parse_times
from cellflow.several import join_process_group
from cellflow.tl._reading import (
    check_reference,
    preprocessing_of,
    read_course,
    resolve_methods,
    warn_of_unused_growth,
)


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
    reference: str | None = None,
    solver: str = "rk4",
    preprocess_on: str = "all",
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> HoldoutTable:
    """Predict each interior time point from the others, beside predictions without a model.

    See :func:`cellflow.evaluate.holdout`; print the table, or draw it with
    :func:`cellflow.pl.holdout`.

    Parameters
    ----------
    adata
        Cells of at least three time points; it is not changed.
    time_key, use_rep, n_dims, whiten, mass_key, growth_key, reference, time_map, missing, unit
        As in :func:`cellflow.tl.fit`.
    progress
        Whether to show a progress bar on standard error; by default as
        ``cf.settings.verbosity`` says.
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
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, growth_key=growth_key)
    keys = replace(keys, reference=reference, time_map=time_map, missing=missing, unit=unit)
    ranks = join_process_group()
    recipes = resolve_methods(method)
    check_reference(recipes, reference)
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
        progress=shown(progress) and ranks.is_main,
        ranks=ranks,
    )


@_doors.door
def suggest_sigma(
    adata: AnnData,
    *,
    time_key: str,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    whiten: bool = False,
    exclude: Sequence[float | str] = (),
    sigmas: Sequence[float] | None = None,
    method: Callable[[float], FlowMatching] = SF2M,
    learned: bool = False,
    steps: int = 1000,
    seeds: int | Sequence[int] = 5,
    n_cells: int = 500,
    metrics: Sequence[str] = ("energy", "w1"),
    mass_key: str | None = None,
    growth_key: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> SigmaSweep:
    """Suggest the diffusion of a Schrödinger bridge, by predicting time points left out.

    Print the answer, draw it with :func:`cellflow.pl.sigma`, and give its `best` to a method:
    ``SF2M(sweep.best)``. See :func:`cellflow.evaluate.sigma_sweep`.

    Parameters
    ----------
    adata
        Cells of the time points to train on; it is not changed.
    time_key, use_rep, n_dims, whiten, mass_key, growth_key, time_map, missing, unit, progress
        As in :func:`cellflow.tl.fit`, so that the answer is in the coordinates of that fit.
    exclude
        Time points that are not looked at, as numbers in the unit of the data or as their
        labels: those that a final figure is to be scored on.
    sigmas, method
        Diffusions to try, on a logarithmic grid around the data's own when omitted; and from a
        diffusion to a method.
    learned
        Whether to train networks, which takes minutes to hours, instead of drawing from the
        bridges, which takes seconds.
    steps
        Training steps of each fit, where `learned`.
    seeds, workers
        As in :func:`holdout`.
    n_cells
        At most so many cells of each time point, drawn anew by each seed.
    metrics
        Any of ``"energy"``, ``"w1"``, ``"w2"``; the first one decides.

    Examples
    --------
    >>> from cellflow import datasets, pp
    >>> sweep = pp.suggest_sigma(
    ...     datasets.embryoid(), time_key="stage", n_dims=5, exclude=["day 6-9"],
    ...     sigmas=[1.0, 10.0], seeds=1, n_cells=50, progress=False,
    ... )
    >>> sweep.held_out, sweep.unit
    ([13.5, 19.5], 'day')
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, growth_key=growth_key)
    keys = replace(keys, time_map=time_map, missing=missing, unit=unit)
    if isinstance(exclude, str):
        expected, remedy = "a list of times", f"Pass [{exclude!r}]."
        raise TypeError(_checks.message("exclude", repr(exclude), expected, remedy))
    cells, index, n_components = read_course(adata, keys, streams=False, show=progress)
    table = index.table
    known = dict(zip(table.labels, table.times, strict=True))
    unread = [value for value in exclude if str(value) not in known]  # other labels, or numbers
    others = [parse_times([value], unit=table.unit, name="exclude") for value in unread]
    known |= {str(value): other.times[0] for value, other in zip(unread, others, strict=True)}
    kept = without_times(cells, [known[str(value)] for value in exclude])
    # On the kept cells alone: what is excluded decides nothing here.
    prep = preprocessing_of(kept.x, n_components, whiten)
    if prep is not None:
        kept = kept.map(prep.apply)
    return sigma_sweep(
        kept,
        method,
        sigmas=sigmas,
        steps=steps if learned else None,
        seeds=seeds,
        n_cells=n_cells,
        metrics=metrics,
        workers=workers,
        progress=progress,
    )
