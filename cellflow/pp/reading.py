"""Build a time course from an AnnData, and remember which cell is which."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cellflow import _checks
from cellflow.pp.access import find_representation, labels_of, numbers_of, read_states
from cellflow.pp.components import components, project
from cellflow.pp.conditions import ConditionKeys, times_of
from cellflow.pp.times import TimeTable, parse_times
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class CourseIndex:
    """Rows of the cells of a course in the AnnData that it came from.

    Parameters
    ----------
    rows, obs_names
        For each snapshot, rows and names of its cells in the AnnData, each of shape ``(n_k,)``.
    table
        Which label meant which time.
    use_rep
        The representation that was read: a key of ``obsm``, or ``"X"``.
    components
        From what was read to the states of the course, where these are principal components.
    """

    rows: tuple[np.ndarray, ...]
    obs_names: tuple[np.ndarray, ...]
    table: TimeTable
    use_rep: str
    components: Preprocessing | None = None


@dataclass(frozen=True)
class Reading:
    """Keys and rules by which a course is read out of an AnnData.

    `whiten` is for what is made of the course; the others are arguments of :func:`course`.
    """

    time_key: str | None
    use_rep: str = "X_pca"
    n_dims: int | None = None
    whiten: bool = False
    n_components: int | None = None
    mass_key: str | None = None
    growth_key: str | None = None
    label_key: str | None = None
    reference: str | None = None
    time_map: Mapping[Hashable, float] | None = None
    missing: str = "error"
    unit: str | None = None
    dtype: torch.dtype | None = None
    conditions: ConditionKeys = field(default_factory=ConditionKeys)


def course(
    adata: AnnData,
    *,
    time_key: str | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    n_components: int | None = None,
    mass_key: str | None = None,
    growth_key: str | None = None,
    label_key: str | None = None,
    condition_key: str | Sequence[str] | None = None,
    covariates: Mapping[str, object] | None = None,
    control: str | Mapping[str, Any] | None = None,
    across: str | Sequence[str] | None = None,
    nuisance: str | Sequence[str] | None = None,
    reference: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[TimeCourse, CourseIndex]:
    """Read a time course out of an AnnData, which is left as it is.

    Parameters
    ----------
    adata
        Cells in memory, backed by a file, or read lazily; also a view (which, of a backed
        AnnData, is read as a whole).
    use_rep
        Cells' states: a key of ``obsm`` (``"pca"`` is short for ``"X_pca"``), or ``"X"``.
    n_dims
        Use only the first `n_dims` columns; all when omitted.
    n_components
        Instead, that many principal components of them, over the cells of the course; for
        expression that does not fit into memory, see :func:`pca`.
    time_key, mass_key, growth_key, label_key
        Columns of ``obs`` with the time of each cell; a positive mass, uniform when omitted; a
        growth rate known beforehand, births less deaths per unit of time; a label, such as the
        cell type. Without a column of times the cells of the `control` are at 0, all others at 1.
    condition_key, covariates, control, across, nuisance
        As in :func:`cellflow.tl.fit`.
    reference
        Key of ``obsm`` with the velocity of each cell, such as ``"velocity_pca"``, in the
        coordinates of `use_rep` and per unit of time.
    time_map, missing, unit
        As in :func:`parse_times`.
    dtype
        Floating type of the states. When omitted, float32 and float64 are kept and everything
        else becomes float32.

    Returns
    -------
    course
        One snapshot per distinct time, cells in the order of `adata`.
    index
        Rows and names of each snapshot's cells, and the table of times.

    Examples
    --------
    >>> from cellflow import datasets, pp
    >>> cells, index = pp.course(datasets.embryoid(), time_key="stage", n_dims=5)
    >>> cells.times, cells.dim, len(index.rows[0])
    ((1.5, 7.5, 13.5, 19.5, 25.5), 5, 550)
    """
    keys = Reading(time_key, use_rep, n_dims, n_components=n_components, dtype=dtype)
    keys = replace(keys, mass_key=mass_key, growth_key=growth_key, label_key=label_key)
    told = ConditionKeys(condition_key, covariates, control, across, nuisance)
    keys = replace(keys, reference=reference, conditions=told)
    return read(adata, replace(keys, time_map=time_map, missing=missing, unit=unit))


def read(adata: AnnData, keys: Reading) -> tuple[TimeCourse, CourseIndex]:
    """Return the course and its index, read out of `adata` by `keys`."""
    of_times = "conditions" if keys.time_key is None else f"obs[{keys.time_key!r}]"
    column = times_of(adata, keys.time_key, keys.conditions.told)
    times = parse_times(
        column, time_map=keys.time_map, missing=keys.missing, unit=keys.unit, name=of_times
    )
    points = times.time_points
    if keys.time_key is None and points[0] > 0:
        got, expected = repr(dict(keys.conditions.told)), "the condition of some cells"
        raise ValueError(_checks.message("control", got, expected))
    if len(points) < 2:
        got = f"one time point, {points[0]:g} {times.unit}"
        remedy = "A course needs a start and an end."
        raise ValueError(_checks.message(of_times, got, "at least two", remedy))
    use_rep, stored = find_representation(adata, keys.use_rep)
    name = "X" if use_rep == "X" else f"obsm[{use_rep!r}]"
    rows = tuple(times.kept[times.cell_times == point] for point in points)
    found = None
    if keys.n_components is not None:
        stored, found = _components(stored, keys, times.kept)
    mass = None if keys.mass_key is None else _masses(adata, keys.mass_key, times.kept)
    growth = None if keys.growth_key is None else numbers_of(adata, keys.growth_key, "growth_key")
    labels = None if keys.label_key is None else labels_of(adata, keys.label_key, times.kept)
    conditions = codes = None
    if keys.conditions.columns:
        conditions, codes = keys.conditions.read(adata, times.kept)
    snapshots = []
    for point, index in zip(points, rows, strict=True):
        if len(index) < 2:
            got = f"{len(index)} cell at time {point:g}"
            remedy = "Drop this time point, or merge it with another through `time_map`."
            raise ValueError(_checks.message(of_times, got, "at least 2", remedy))
        x = read_states(stored, index, n_dims=keys.n_dims, dtype=keys.dtype, name=name)
        check_finite(x, adata.obs_names[index], name=name)
        prior = None if growth is None else torch.as_tensor(growth[index], dtype=x.dtype)
        named = None if labels is None else list(labels[index])
        code = None if codes is None else torch.from_numpy(codes[index])
        v = _velocities(adata, keys, index)
        cells = Snapshot(x, point, labels=named, growth=prior, condition=code, velocity=v)
        if mass is not None:
            cells = replace(cells, mass=torch.as_tensor(mass[index], dtype=x.dtype))
        snapshots.append(cells)
    names = tuple(np.asarray(adata.obs_names[index], dtype=object) for index in rows)
    index = CourseIndex(rows, names, times, use_rep, found)
    return TimeCourse(tuple(snapshots), times.unit, conditions), index


def _components(stored: Any, keys: Reading, kept: np.ndarray) -> tuple[np.ndarray, Preprocessing]:
    """Return all cells in components of those that are kept, and these components."""
    if keys.n_dims is not None or keys.n_components is None:
        raise ValueError(_checks.message("n_components", "n_dims besides", "one of the two"))
    if hasattr(stored, "iloc"):
        stored = stored.to_numpy()
    counts = np.zeros(stored.shape[0], dtype=bool)
    counts[kept] = True
    found, _, _ = components(stored, keys.n_components, rows=None if counts.all() else counts)
    return project(stored, found), found


def _velocities(adata: AnnData, keys: Reading, rows: np.ndarray) -> torch.Tensor | None:
    """Return the velocities of the cells `rows`, ``(n, d)``; None where none are asked for."""
    if keys.reference is None:
        return None
    if keys.n_components is not None:
        got, expected = "components fitted here", "cells in the coordinates of the velocities"
        raise ValueError(_checks.message("reference", got, expected, "Run cellflow.pp.pca."))
    stored = adata.obsm[_checks.choice(keys.reference, list(adata.obsm.keys()), "reference")]
    name = f"obsm[{keys.reference!r}]"
    v = read_states(stored, rows, n_dims=keys.n_dims, dtype=keys.dtype, name=name)
    check_finite(v, adata.obs_names[rows], name=name)
    return v


def check_finite(x: torch.Tensor, names: pd.Index, *, name: str) -> None:
    """Refuse states with NaN or infinite values, naming the first such cell."""
    if bool(torch.isfinite(x.sum())):  # then all are; if not, a sum may have overflowed
        return
    bad = ~torch.isfinite(x).all(dim=1)
    if bool(bad.any()):
        first = names[int(bad.nonzero()[0])]
        got = f"NaN or infinite values in {int(bad.sum())} cells of a time point (first: {first!r})"
        raise ValueError(_checks.message(name, got, "finite numbers", "Remove or impute them."))


def _masses(adata: AnnData, key: str, kept: np.ndarray) -> np.ndarray:
    """Return the mass of every cell, shape (n,), checked where the cell is kept."""
    mass, name = numbers_of(adata, key, "mass_key"), f"obs[{key!r}]"
    bad = ~(np.isfinite(mass[kept]) & (mass[kept] > 0))
    if bad.any():
        first = kept[np.flatnonzero(bad)[0]]
        got = f"{bad.sum()} cells without a positive mass (first: {adata.obs_names[first]!r})"
        raise ValueError(_checks.message(name, got, "positive finite masses", "Drop these cells."))
    return mass
