"""Couple the time points of an AnnData, without a network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from inspect import signature

import numpy as np
from anndata import AnnData
from tqdm.auto import tqdm

from cellflow import _checks
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng
from cellflow.costs import UNKNOWN, Added
from cellflow.couplings import COUPLINGS, Exact, Hierarchical
from cellflow.couplings.coupling import CouplingLike, as_coupling
from cellflow.logging import shown
from cellflow.plans import Plan, Transitions, sparsify
from cellflow.pp.access import column_of
from cellflow.pp.reading import CourseIndex, Reading
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.tl._reading import preprocessing_of, read_course
from cellflow.tl.coupled import Coupled
from cellflow.training.cells import natural_sigma

#: Cells of a time point up to which ``"auto"`` is exact; and the entropic plan's diffusion, as that
#: of the bridges in the data's own.
EXACT_CELLS, SIGMA = 4000, 0.2


def couple(
    adata: AnnData,
    *,
    time_key: str,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    coupling: str | CouplingLike = "auto",
    sigma: float | None = None,
    whiten: bool = False,
    mass_key: str | None = None,
    growth_key: str | None = None,
    clone_key: str | None = None,
    clone_bonus: float = 1.0,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    rng: Rng = 0,
    progress: bool | None = None,
) -> Coupled:
    """Match the cells of each time point with those of the next.

    Nothing is learned: the answer is a list of pairs with masses for each interval, along which
    descendants and ancestors, labels and distributions can be followed. Plans that are not lists
    of pairs by themselves are made so: see :func:`cellflow.plans.sparsify`. Time and memory
    are those of the coupling; of ``"global"`` nearly linear in the number of cells.

    The answer has the pairs: ask it for descendants, ancestors and tables of transitions.

    Parameters
    ----------
    adata
        Cells of all time points; it is not changed.
    time_key, use_rep, n_dims, whiten, mass_key, growth_key, time_map, missing, unit, rng, progress
        As in :func:`cellflow.tl.fit`; growth rates are used by ``"unbalanced"`` alone, and what is
        random are draws from plans too large to be written out.
    coupling
        ``"exact"`` (optimal transport), ``"global"`` (near optimal, up to millions of cells),
        ``"entropic"`` (the static Schrödinger bridge), ``"unbalanced"`` (cells divide and die),
        another name in :data:`cellflow.couplings.COUPLINGS`, or any coupling. ``"auto"`` is exact
        for intervals between up to 4,000 cells, and global for others.
    sigma
        Diffusion of ``"entropic"``, in data units per square root of time; 0.2 times the data's
        own when omitted.
    clone_key
        Column of ``obs`` with clones, so that pairs of one clone are favoured: see
        :class:`cellflow.costs.Added`. Cells without one pair as they would. For ``"auto"``, which
        is exact then, and couplings that take a `cost`, up to 25 million pairs. A flow learns from
        such plans as ``dataclasses.replace(OTCFM(), coupling=Given(coupled.tmaps()))``.
    clone_bonus
        What a pair of one clone costs less, in median costs of a pair.
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, growth_key=growth_key)
    keys = replace(keys, time_map=time_map, missing=missing, unit=unit)
    if sigma is not None and coupling != "entropic":
        remedy = "Give sigma to the coupling itself, as in Entropic(sigma=0.1)."
        raise ValueError(_checks.message("sigma", f"{sigma}", "coupling='entropic'", remedy))
    if isinstance(coupling, str):
        _checks.choice(coupling, names(), "coupling")
    else:
        coupling = as_coupling(coupling)
    cells, index, n_components = read_course(adata, keys, show=progress)
    prep = preprocessing_of(cells.x, n_components, whiten)
    if prep is not None:
        cells = cells.map(prep.apply)
    if clone_key is not None:
        cells = _with_clones(adata, clone_key, cells, index)
        coupling = "exact" if coupling == "auto" else coupling
    pair = as_coupling(named(coupling, cells, sigma) if isinstance(coupling, str) else coupling)
    if clone_key is not None:
        _checks.number(clone_bonus, "clone_bonus", low=0.0)
        pair = pair.by_cost(Added("clones", clone_bonus, cost=pair.ground))
    pair = pair.fitted_to(cells)
    seed = draw_seed(_checks.as_generator(rng, "rng"))
    plans = [
        sparsify(pair(*step), generator=stream_seed(seed, k, 0))
        for k, step in enumerate(tqdm(cells.steps, disable=not shown(progress), unit="interval"))
    ]
    found = [adata.obs[time_key].iloc[rows].unique() for rows in index.rows]
    # Python's own or numpy's scalars, whatever pandas keeps them in.
    labels = tuple(tuple(np.asarray(values, dtype=object)) for values in found)
    return Coupled(Transitions(tuple(cells.times), tuple(plans)), index, labels, adata.obs.copy())


def _with_clones(adata: AnnData, key: str, course: TimeCourse, index: CourseIndex) -> TimeCourse:
    """Return the course with clones, the column `key` of `adata`, as labels."""
    column = column_of(adata, key, "clone_key")
    clones = column.astype(object).where(column.notna(), UNKNOWN).to_numpy()
    pairs = zip(course.snapshots, index.rows, strict=True)
    return TimeCourse(tuple(replace(s, labels=clones[rows]) for s, rows in pairs), course.unit)


def names() -> list[str]:
    """``"auto"``, and the names of couplings that need no further settings."""
    complete = [
        name
        for name, member in COUPLINGS.items()
        if all(p.default is not p.empty for p in signature(member).parameters.values())
    ]
    return ["auto", *complete]


def named(name: str, course: TimeCourse, sigma: float | None) -> CouplingLike:
    """Return the coupling called `name`, for `course`."""
    if name == "auto":
        return by_size
    return COUPLINGS[name].for_diffusion(
        lambda: SIGMA * natural_sigma(course) if sigma is None else sigma
    )


def by_size(source: Snapshot, target: Snapshot) -> Plan:
    """Couple exactly where that is quick, and near optimally elsewhere."""
    few = max(len(source), len(target)) <= EXACT_CELLS
    return Exact()(source, target) if few else Hierarchical()(source, target)
