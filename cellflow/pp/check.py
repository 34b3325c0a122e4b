"""What an AnnData tells of its time course before anything is fitted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cellflow import _checks
from cellflow.couplings.reach import MOST
from cellflow.pp.access import expression_on_disk, labels_of, read_states
from cellflow.pp.genes import pca_keys
from cellflow.pp.reading import CourseIndex, Reading, read
from cellflow.pp.times import TimeTable
from cellflow.timecourse import TimeCourse

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Cells of a group that its share at one time must promise for another, before none is news: by
#: chance alone there is none once in twenty times.
EXPECTED = 3.0
#: Relative difference of variances, and mean in standard deviations, that are those of the PCA.
SAME = 0.1
#: Bytes that a fit takes at most: whatever the data, for each byte of states, and for each pair of
#: cells of two time points that scales are measured on. Measured with 4,000 to 400,000 cells.
FIXED, PER_STATE, PER_PAIR = 4e7, 3.0, 14.0


@dataclass(frozen=True)
class Change:
    """A `group` of `n_cells` at the time `present`, and of none at the neighbouring time `absent`.

    With the same share it would have `expected` cells there.
    """

    group: str
    present: float
    absent: float
    n_cells: int
    expected: float


@dataclass(frozen=True)
class PCASource:
    """What an AnnData tells of the PCA behind a representation.

    The `variance` of each component and its `ratio` to the total one, empty where not written down;
    whether genes were centred (`zero_centred`), None where not written down; `n_genes` with a
    loading, by which predictions are turned into expression; and whether the representation has
    these variances and is centred on the cells at hand (`same_cells`), None where no variances are
    written down.
    """

    variance: tuple[float, ...] = ()
    ratio: tuple[float, ...] = ()
    zero_centred: bool | None = None
    n_genes: int = 0
    same_cells: bool | None = None

    def __str__(self) -> str:
        if not self.variance and not self.n_genes:
            return "source not written down"
        centred = {True: "zero-centred", False: "not centred", None: "centring not written down"}
        parts = [f"{len(self.variance)} components", centred[self.zero_centred]]
        parts.append(f"loadings of {self.n_genes:,} genes" if self.n_genes else "without loadings")
        if self.ratio:
            parts.append(f"{sum(self.ratio):.0%} of the variance")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class CourseCheck:
    """What :func:`check` found; ``str(result)`` prints it.

    Parameters
    ----------
    times
        Labels, times and numbers of cells.
    use_rep, n_dims
        The representation, and how many of its dimensions a fit would use.
    groups, batches
        Cells of each group and batch (rows) at each time (columns); None without their key.
    vanishing, appearing
        Groups without cells at the next time, or at the one before.
    confounded
        Pairs of consecutive times between which batches and time cannot be told apart: no chain
        of batches that share times leads from one to the other.
    duplicated
        Rows of cells whose state is exactly that of an earlier row, increasing.
    pca
        Where the representation is from.
    suggested_dims
        How many components stand out by their variance; None where variances are not known.
    memory
        Bytes that one fit by the default method is predicted to take at most, beside the AnnData.
    warnings
        What should be looked at before fitting, one sentence each.
    """

    times: TimeTable
    use_rep: str
    n_dims: int
    groups: pd.DataFrame | None
    batches: pd.DataFrame | None
    vanishing: tuple[Change, ...]
    appearing: tuple[Change, ...]
    confounded: tuple[tuple[float, float], ...]
    duplicated: np.ndarray
    pca: PCASource
    suggested_dims: int | None
    memory: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        dims = "unknown" if self.suggested_dims is None else f"{self.suggested_dims}, by variance"
        parts = [str(self.times)]
        for name, table in (("group", self.groups), ("batch", self.batches)):
            if table is not None:
                parts.append(f"cells of each {name}\n{table.to_string()}")
        parts.append(
            f"{self.use_rep}, {self.n_dims} dimensions: {self.pca}\n"
            f"suggested dimensions: {dims}\n"
            f"duplicated cells: {len(self.duplicated)}\n"
            f"memory of a fit: at most about {self.memory / 1e6:,.0f} MB"
        )
        found = [f"- {sentence}" for sentence in self.warnings]
        parts.append("\n".join(["look at:", *found]) if found else "nothing stands out")
        return "\n\n".join(parts)


def check(
    adata: AnnData,
    *,
    time_key: str,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
) -> CourseCheck:
    """Look at a time course before it is fitted: sizes, groups, batches, duplicates, components.

    Nothing is trained or written. Whatever a fit would refuse, such as missing keys and NaN, is
    refused here with the same words. Print the answer; its `warnings` are sentences.

    Parameters
    ----------
    adata
        Cells of at least two time points. Expression on disk is refused: see :func:`pca`.
    time_key, use_rep, n_dims, time_map, missing, unit
        As in :func:`course`.
    label_key, batch_key
        Columns of ``obs`` with groups, such as cell types, and with batches.

    Notes
    -----
    Suggested dimensions are a start, and hold-out decides: the split of the components into two
    groups whose logarithmic variances deviate least from their means, which is the profile
    likelihood of Zhu and Ghodsi (2006) on a logarithmic scale.

    Examples
    --------
    >>> from cellflow import datasets, pp
    >>> found = pp.check(datasets.embryoid(), time_key="stage")
    >>> found.n_dims, len(found.duplicated), found.suggested_dims
    (100, 0, None)
    """
    if use_rep == "X" and expression_on_disk(adata):
        remedy = "Run cellflow.pp.pca(adata) once, and check use_rep='X_pca'."
        got = "'X', expression on disk"
        raise ValueError(_checks.message("use_rep", got, "a key of obsm", remedy))
    keys = Reading(time_key, use_rep, n_dims, time_map=time_map, missing=missing, unit=unit)
    course, index = read(adata, keys)
    groups = _counts(adata, label_key, index.table, "label_key")
    batches = _counts(adata, batch_key, index.table, "batch_key")
    changes = [] if groups is None else _changes(groups)
    found: dict[str, Any] = {"pca": _source(adata, index.use_rep), "batches": batches}
    found["confounded"] = () if batches is None else _confounded(batches)
    duplicated = _duplicates(course, index)
    return CourseCheck(
        times=index.table,
        use_rep=index.use_rep,
        n_dims=course.dim,
        groups=groups,
        vanishing=tuple(c for c in changes if c.present < c.absent),
        appearing=tuple(c for c in changes if c.present > c.absent),
        duplicated=duplicated[0],
        suggested_dims=_knee(found["pca"].variance),
        memory=_memory(course),
        warnings=tuple(_warnings(adata, index, changes, duplicated=duplicated, **found)),
        **found,
    )


def _counts(adata: AnnData, key: str | None, times: TimeTable, name: str) -> pd.DataFrame | None:
    """Cells of each label of a column (rows) at each time (columns); None without a `key`."""
    import pandas as pd

    if key is None:
        return None
    labels = labels_of(adata, key, times.kept, name=name)[times.kept]
    return pd.crosstab(pd.Series(labels, name=key), pd.Series(times.cell_times, name=times.unit))


def _changes(groups: pd.DataFrame) -> list[Change]:
    """Groups that are present at one time and absent at a neighbouring one."""
    totals = groups.sum(0)
    steps = [*pairwise(groups.columns)]
    return [
        Change(str(group), float(a), float(b), int(n), float(n * totals[b] / totals[a]))
        for a, b in (*steps, *((later, earlier) for earlier, later in steps))
        for group, n in groups[a].items()
        if n > 0 and groups.loc[group, b] == 0
    ]


def _confounded(batches: pd.DataFrame) -> tuple[tuple[float, float], ...]:
    """Steps between times that no chain of shared batches joins.

    Effects of batch and time add up to the same observations in other ways exactly if the graph
    of batches and times, joined where there are cells, falls apart.
    """
    b, t = np.nonzero(batches.to_numpy())
    n = sum(batches.shape)
    graph = coo_matrix((np.ones(len(b)), (b, t + len(batches))), shape=(n, n))
    part = connected_components(graph, directed=False)[1][len(batches) :]
    steps = zip(pairwise(batches.columns), pairwise(part), strict=True)
    return tuple((float(a), float(b)) for (a, b), (one, other) in steps if one != other)


def _duplicates(course: TimeCourse, index: CourseIndex) -> tuple[np.ndarray, int]:
    """Rows of cells in the state of an earlier row, and how many are of several times."""
    import pandas as pd

    # Adding zero makes one of the two zeros.
    states = [hash(row.tobytes()) for s in course.snapshots for row in s.x.cpu().numpy() + 0.0]
    times = np.repeat(course.times, [len(rows) for rows in index.rows])
    cells = pd.DataFrame({"state": states, "time": times}, index=np.concatenate(index.rows))
    cells = cells.sort_index()
    again = cells["state"].duplicated()
    several = cells.groupby("state")["time"].transform("nunique") > 1
    return cells.index[again].to_numpy(), int((again & several).sum())


def _source(adata: AnnData, rep: str) -> PCASource:
    """What ``uns`` and ``varm`` tell of `rep`, by the keys of scanpy."""
    if rep == "X":
        return PCASource()
    key, place = pca_keys(rep)
    facts = adata.uns.get(place, {})
    facts = facts if isinstance(facts, Mapping) else {}
    params = facts.get("params", {})
    loadings = adata.varm.get(key)
    n_genes = 0 if loadings is None else int(np.any(np.asarray(loadings) != 0, axis=1).sum())
    centred = params.get("zero_center") if isinstance(params, Mapping) else None
    variance = np.ravel(facts.get("variance", ()))[: adata.obsm[rep].shape[1]]
    return PCASource(
        variance=tuple(map(float, variance)),
        ratio=tuple(map(float, np.ravel(facts.get("variance_ratio", ()))[: len(variance)])),
        zero_centred=None if centred is None else bool(centred),
        n_genes=n_genes,
        same_cells=_same(adata.obsm[rep], variance, centred) if len(variance) else None,
    )


def _same(stored: Any, variance: np.ndarray, centred: Any) -> bool:
    """Whether the states have this `variance` and, unless they are not `centred`, mean zero."""
    x = read_states(stored, slice(None), n_dims=len(variance), dtype=torch.float64, name="obsm")
    mean, found = x.numpy().mean(0), x.numpy().var(0)
    known = np.maximum(variance, np.finfo(float).tiny)
    shifted = centred is not False and bool((np.abs(mean) > SAME * np.sqrt(known)).any())
    return not shifted and bool((np.abs(found / known - 1) < SAME).all())


def _knee(variance: Sequence[float]) -> int | None:
    """How many of the decreasing variances stand out; None of fewer than three positive ones."""
    scree = np.log([v for v in variance if v > 0])
    if len(scree) < 3:
        return None
    deviations = [
        sum(((part - part.mean()) ** 2).sum() for part in (scree[:k], scree[k:]))
        for k in range(1, len(scree))
    ]
    return 1 + int(np.argmin(deviations))


def _memory(course: TimeCourse) -> float:
    """Bytes of a fit by the default method."""
    sizes = [min(len(s), MOST) for s in course.snapshots]
    pairs = max(math.prod(step) for step in pairwise(sizes))
    states = sum(s.x.numel() * s.x.element_size() for s in course.snapshots)
    return FIXED + PER_STATE * states + PER_PAIR * pairs


def _warnings(
    adata: AnnData,
    index: CourseIndex,
    changes: Sequence[Change],
    *,
    batches: pd.DataFrame | None,
    confounded: Sequence[tuple[float, float]],
    duplicated: tuple[np.ndarray, int],
    pca: PCASource,
) -> list[str]:
    """A sentence for each of what is more than chance, cannot be told apart, repeats or is lost."""
    rep, (rows, elsewhere) = index.use_rep, duplicated
    out = [
        f"{c.group!r} has {c.n_cells} cells at time {c.present:g} but none at {c.absent:g}, where "
        f"its share promises {c.expected:.0f}."
        for c in changes
        if c.expected >= EXPECTED
    ]
    if confounded and batches is not None:
        listed, apart = ", ".join(f"{a:g} → {b:g}" for a, b in confounded), (batches > 0).sum(0)
        replicated = all(apart[a] > 1 and apart[b] > 1 for a, b in confounded)
        rest = "; batches of one time show how large it is." if replicated else "."
        shared = f"No batches are shared over {listed}"
        out.append(f"{shared}: their effect looks like movement there{rest}")
    if len(rows):
        other = f", {elsewhere} of them one of another time" if elsewhere else ""
        first = f"(first: {str(adata.obs_names[rows[0]])!r})"
        out.append(f"{len(rows)} cells repeat the state of another{other} {first}: drop them.")
    if "pca" in rep and not pca.n_genes:
        out.append(f"There are no loadings of {rep!r} in varm: predictions stay without genes.")
    if pca.zero_centred is False:
        out.append(f"{rep!r} was not zero-centred: its first component is mostly the mean.")
    if pca.same_cells is False:
        out.append(
            f"{rep!r} of these cells is not what uns describes: cells were removed, or values "
            "corrected, since the PCA."
        )
    return out
