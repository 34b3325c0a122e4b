"""Matched cells of an AnnData's time points, and the questions that they answer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from cellflow import _checks
from cellflow._files import whole_file
from cellflow._html import table
from cellflow._typing import Tensor
from cellflow.plans import PairPlan, Transitions
from cellflow.pp import CourseIndex

Time: TypeAlias = float | str
PerCell: TypeAlias = Any  # a column of ``obs`` or its name, a frame, or an array


@dataclass(frozen=True, eq=False)
class Coupled:
    """Cells of consecutive time points, matched; see :func:`cellflow.tl.couple`.

    It holds the pairs, `transitions`, in order of time; the `index` of their cells in the AnnData;
    the `labels` by which the column of times calls each time point; and `obs`, the columns of the
    AnnData when it was coupled.

    Whatever is asked about cells may be the name of a column of ``obs``, a column (matched by the
    names of the cells, or by position where it has others), or an array for all cells of the
    AnnData, or for those of its time point. Answers about cells are named by their ``obs_names``,
    so that ``adata.obs["descendants"] = coupled.push(...)`` puts them where they belong. Time
    points are numbers in the unit of the course, or labels; of two, the earlier comes first.
    """

    transitions: Transitions
    index: CourseIndex
    labels: tuple[tuple[Hashable, ...], ...]
    obs: pd.DataFrame

    @property
    def n_obs(self) -> int:
        """Number of cells of the AnnData."""
        return len(self.obs)

    def push(self, values: PerCell, start: Time, end: Time) -> pd.Series | pd.DataFrame:
        """Push masses to the descendants: from the cells at `start` to those at `end`.

        `values` are masses of the cells at `start`, in one or several columns; or true for some of
        them, which then have the masses that they were coupled with (all together one). The total
        stays but for growth, and cells without a partner.

        Notes
        -----
        moscot's ``push`` multiplies the plan itself, which is the same for masses in proportion
        to those of the cells, and needs ``scale_by_marginals=True`` to be it for others.
        """
        first, last = self._interval(start, end)
        mass, names = self._masses(values, first)
        return self._named(self.transitions.push(mass, first, last), last, names)

    def pull(self, values: PerCell, start: Time, end: Time) -> pd.Series | pd.DataFrame:
        """Pull masses back to the ancestors: from the cells at `end` to those at `start`.

        `values` are as in :meth:`push`. The total stays but for cells without a partner.
        """
        first, last = self._interval(start, end)
        mass, names = self._masses(values, last)
        return self._named(self.transitions.pull(mass, first, last), first, names)

    def descendants(self, labels: PerCell, start: Time, end: Time) -> pd.DataFrame:
        """Share of each of `labels`, those of the cells at `end`, among each cell's descendants.

        One row for each cell at `start`, of sum one, or zero for cells without descendants.
        """
        first, last = self._interval(start, end)
        marks = self._indicators(labels, last)
        shares = self.transitions.expect(marks.to_numpy(), first, last)
        return self._frame(shares, first, marks.columns)

    def ancestors(self, labels: PerCell, start: Time, end: Time) -> pd.DataFrame:
        """Share of each of `labels`, those of the cells at `start`, among each cell's ancestors.

        One row for each cell at `end`.
        """
        first, last = self._interval(start, end)
        marks = self._indicators(labels, first)
        shares = self.transitions.recall(marks.to_numpy(), first, last)
        return self._frame(shares, last, marks.columns)

    def table(
        self, labels: PerCell, start: Time, end: Time, *, normalize: str | None = "start"
    ) -> pd.DataFrame:
        """Mass that goes from each label at `start` (rows) to each label at `end` (columns).

        `labels` are those of the cells of both time points, such as ``adata.obs["cell_type"]``. If
        `normalize` is ``"start"`` rows sum to one (fates of each label), if ``"end"`` columns do
        (origins); None leaves masses, of total one but for growth. Both axes are named by their
        time. Drawn by :func:`cellflow.pl.transitions`.
        """
        first, last = self._interval(start, end)
        before, after = self._indicators(labels, first), self._indicators(labels, last)
        weights = self.transitions.weights(first).cpu().numpy()
        pushed = self.transitions.push(before.to_numpy() * weights[:, None], first, last)
        flow = pushed.cpu().numpy().T @ after.to_numpy()
        axes = before.columns, after.columns
        return table_of(flow, axes, (first, last), unit=self.index.table.unit, normalize=normalize)

    def tmaps(self) -> dict[tuple[Hashable, Hashable], AnnData]:
        """Return the plans as CellRank's ``RealTimeKernel(couplings=…)`` reads them.

        For each interval, under the labels of its time points, an AnnData of source by target
        cells with the mass that each pair ends with, sparse: rows are weighted with growth. Raises
        ValueError if two labels were read as one time.
        """
        keys, out = [self._label(k) for k in range(len(self.labels))], {}
        for k, plan in enumerate(self.transitions.plans):
            start, end = self.transitions.times[k : k + 2]
            forward = self.transitions.matrix(start, end)
            ends = forward.multiply(plan.row_mass.cpu().numpy()[:, None]).tocsr()
            names = (self.index.obs_names[j].astype(str) for j in (k, k + 1))
            obs, var = (pd.DataFrame(index=name) for name in names)
            out[keys[k], keys[k + 1]] = AnnData(ends, obs=obs, var=var)
        return out

    def save(self, folder: str | Path) -> list[Path]:
        """Write :meth:`tmaps` to `folder`, as ``RealTimeKernel.from_wot`` reads them.

        Returns the files, ``tmaps_<start>_<end>.h5ad``. Those of the same names are replaced.
        """
        found, folder = self.tmaps(), Path(folder)
        for label in {label for key in found for label in key}:
            if set("_/\\") & set(str(label)):
                expected, remedy = "labels without '_' and '/'", "Rename them, or use tmaps()."
                raise ValueError(_checks.message("labels", repr(label), expected, remedy))
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for (start, end), tmap in found.items():
            files.append(folder / f"tmaps_{start}_{end}.h5ad")
            with whole_file(files[-1]) as file:
                tmap.write_h5ad(file)
        return files

    def __repr__(self) -> str:
        lines = (f"{interval}: {text}" for interval, text in self._lines())
        return "\n".join([f"times in {self.index.table.unit}s", *lines])

    def _repr_html_(self) -> str:
        return table(self._lines(), caption=f"Coupled, times in {self.index.table.unit}s")

    def _lines(self) -> list[tuple[str, str]]:
        """Each interval, and its plan in a line."""
        steps = zip(pairwise(self.transitions.times), self.transitions.plans, strict=True)
        return [(f"{a:g} → {b:g}", _line(plan)) for (a, b), plan in steps]

    def _interval(self, start: Time, end: Time) -> tuple[float, float]:
        return self._time(start, "start"), self._time(end, "end")

    def _time(self, time: Time, name: str) -> float:
        one = np.isscalar(time) or hasattr(time, "isoformat")
        for moment, labels in zip(self.transitions.times, self.labels, strict=True):
            if one and (str(time) in map(str, labels) or time == moment):
                return moment
        known = "one of " + ", ".join(f"{t:g}" for t in self.transitions.times)
        got, expected = repr(time) if one else type(time), f"{known}, or a label of these"
        raise ValueError(_checks.message(name, got, expected))

    def _label(self, k: int) -> Hashable:
        """Label of time point `k` in the column of times."""
        if len(self.labels[k]) > 1:
            got = f"{', '.join(map(repr, self.labels[k]))} for time {self.transitions.times[k]:g}"
            remedy = "Merge them in the column of times."
            raise ValueError(_checks.message("labels", got, "one label for each time", remedy))
        return self.labels[k][0]

    def _of(self, values: PerCell, time: float, name: str) -> np.ndarray:
        """Values of the cells at `time`, an array of one or two dimensions."""
        k = self.transitions.times.index(time)
        rows, names = self.index.rows[k], self.index.obs_names[k]
        if isinstance(values, str):
            values = self.obs[_checks.choice(values, [str(c) for c in self.obs.columns], name)]
        if isinstance(values, pd.Series | pd.DataFrame):
            missing = ~pd.Index(names).isin(values.index)
            if not missing.any() and values.index.is_unique:
                return values.loc[names].to_numpy()
            if len(values) != self.n_obs:
                got = f"{missing.sum()} of {len(names)} cells missing, or names that repeat"
                raise ValueError(_checks.message(name, got, f"every cell at time {time:g}"))
        try:
            out = np.asarray(values)
        except (RuntimeError, TypeError, ValueError):  # rows of unequal length
            out = np.asarray(None)
        if out.ndim in (1, 2) and len(out) == self.n_obs:
            return out[rows]
        if out.ndim not in (1, 2) or len(out) != len(rows):
            expected = f"one for each of {self.n_obs} cells, or of {len(rows)} at time {time:g}"
            raise ValueError(_checks.message(name, f"shape {out.shape}", expected))
        return out

    def _masses(self, values: PerCell, time: float) -> tuple[np.ndarray, pd.Index | None]:
        found = self._of(values, time, "values")
        if found.dtype == bool or (found.dtype == object and set(found.ravel()) <= {True, False}):
            weights = self.transitions.weights(time).cpu().numpy()
            found = found.astype(float) * (weights if found.ndim == 1 else weights[:, None])
        return found.astype(float), getattr(values, "columns", None)

    def _indicators(self, labels: PerCell, time: float) -> pd.DataFrame:
        """One column for each label that occurs, in order."""
        array = self._of(labels, time, "labels")
        if array.ndim != 1:
            raise ValueError(_checks.message("labels", f"shape {array.shape}", "one for each cell"))
        found = pd.Series(array)
        if found.isna().any():
            remedy = "Name it, for example 'unknown'."
            got = f"{int(found.isna().sum())} cells without a label at time {time:g}"
            raise ValueError(_checks.message("labels", got, "a label for each cell", remedy))
        return pd.get_dummies(found, dtype=float)

    def _named(
        self, values: Tensor, time: float, columns: pd.Index | None
    ) -> pd.Series | pd.DataFrame:
        """Answers about the cells at `time`, under their names."""
        if values.ndim == 1:
            return self._frame(values[:, None], time, None)[0].rename(None)
        return self._frame(values, time, columns)

    def _frame(self, values: Tensor, time: float, columns: pd.Index | None) -> pd.DataFrame:
        names = self.index.obs_names[self.transitions.times.index(time)]
        return pd.DataFrame(values.cpu().numpy(), index=names, columns=columns)


def table_of(
    flow: np.ndarray,
    axes: tuple[Iterable[Hashable], Iterable[Hashable]],
    times: tuple[float, float],
    *,
    unit: str,
    normalize: str | None,
) -> pd.DataFrame:
    """Masses `flow` ``(k, l)``, or shares of their rows or columns, under the names of `axes`."""
    if normalize is not None:
        _checks.choice(normalize, ("start", "end"), "normalize")
        total = flow.sum(1 if normalize == "start" else 0, keepdims=True)
        flow = flow / np.where(total > 0, total, 1.0)
    named = zip(axes, times, strict=True)
    return pd.DataFrame(flow, *(pd.Index(a, name=f"{unit} {t:g}".strip()) for a, t in named))


def _line(plan: PairPlan) -> str:
    """Summary of one plan, in a line."""
    n, m = plan.shape
    out = f"{n} × {m} cells, {len(plan.mass)} pairs, cost {plan.cost:.4g}"
    if plan.unmatched > 0:
        out += f", {plan.unmatched:.1%} unmatched"
    problem = plan.fallback or (None if plan.converged else "NOT CONVERGED")
    return out if problem is None else f"{out}; {problem}"
