"""Fates of observed cells, where CellRank's users look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.answers import Fates, fates_by_flow, fates_by_plans, origins_by_plans, sinks
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import column_of
from cellflow.timecourse import Snapshot
from cellflow.tl._reading import label_key_of, states_and_times
from cellflow.tl.coupled import Coupled

#: What is written beside probabilities, where it is known.
ERRORS = ("_sampling_error", "_member_error")
#: Group of the cells whose label is not among the terminal ones.
OTHER = "other"
#: What `terminal` is where groups are to be found.
SINKS = "sinks"


def fates(
    adata: AnnData,
    fit: Fit | Ensemble | Coupled,
    *,
    label_key: str | None = None,
    terminal: Sequence[str] | None = None,
    end: float | None = None,
    growth: bool = True,
    n_futures: int = 100,
    neighbours: int = 15,
    rng: Rng = 0,
) -> None:
    """Write the probability of each terminal group for every cell into the AnnData.

    The futures of a cell are simulated to the `end`, and each counts for the groups of the observed
    cells around the place where it comes to; of plans, the descendants are followed from cell to
    cell (:mod:`cellflow.answers.fates`). Cells observed at the end have the group that they are in.

    It writes ``obsm["fates"]``, a table with one column a group and rows of sum one, NaN for cells
    after the end and without a time; ``obs["fate_entropy"]``, from 0, one fate, to 1, all equally
    likely; and ``uns["fates"]``. Standard errors by the number of futures are in
    ``obsm["fates_sampling_error"]``, where there are several, and standard deviations between the
    members of an ensemble in ``obsm["fates_member_error"]``.

    Parameters
    ----------
    adata, fit
        Cells with the representation and the time column that the fit was made from. And a fit, an
        ensemble, or what :func:`cellflow.tl.couple` returned, which needs no training. Take one of
        ``"otcfm"``, ``"sf2m"`` or ``"uotcfm"``: ``"reach"`` is made for days between snapshots, and
        follows cells less well from one snapshot to the next. Plans of
        ``Unbalanced(relative_epsilon=0.2)`` had the best chances on clones.
    label_key
        Column of ``obs`` with the groups; that of the fit when omitted. Cells without a label tell
        nothing.
    terminal
        Labels that are groups; those of all other cells count as ``"other"``. All when omitted. Or
        ``"sinks"``: groups are found, as the modes of the density of the places where the futures
        of earlier cells stop (:func:`cellflow.answers.sinks`). Each is named after the label that
        most of its cells have, or ``"sink 1"``, ``"sink 2"`` where there are no labels, by mass.
    end
        Observed time at which fates are read; the last one when omitted.
    growth
        Whether descendants weigh by their mass, where the method learned growth: who divides more
        decides more.
    n_futures
        Futures of each cell by each member, where the method learned noise; one otherwise.
    neighbours
        Observed cells that say in which group a future ends.
    rng
        Seed or generator of the noise.
    """
    question = _Question(adata, fit, n_futures, neighbours, growth)
    at = observed_time(question.known[1:], question.known[-1] if end is None else end, "end")
    generator = _checks.as_generator(rng, "rng")
    if isinstance(terminal, str) and terminal == SINKS:
        labels = _sinks(question, at, label_key, generator)
    else:
        labels = groups_of(adata, fit, label_key, terminal=terminal)
    question.answer("fates", at, labels, generator)


def ancestors(
    adata: AnnData,
    fit: Fit | Ensemble | Coupled,
    *,
    label_key: str | None = None,
    start: float | None = None,
    n_futures: int = 100,
    neighbours: int = 15,
    rng: Rng = 0,
) -> None:
    """Write the share of each group among every cell's ancestors into the AnnData.

    The dynamics are simulated back from each cell to the `start`, with the noise of the reversed
    process; of plans, ancestors are followed from cell to cell.

    It writes ``obsm["ancestors"]``, ``obs["ancestor_entropy"]``, ``uns["ancestors"]`` and errors,
    all as :func:`fates` does; NaN for cells before the start.

    Parameters
    ----------
    adata, fit, label_key, neighbours, rng
        As in :func:`fates`.
    start
        Observed time at which ancestors are looked up; the first one when omitted.
    n_futures
        Pasts of each cell by each member, where the method learned noise; one otherwise.
    """
    question = _Question(adata, fit, n_futures, neighbours, False)
    at = observed_time(question.known[:-1], question.known[0] if start is None else start, "start")
    question.answer("ancestors", at, groups_of(adata, fit, label_key), rng)


def observed_time(known: Sequence[float], value: float, name: str) -> float:
    """Return `value` if it is one of the `known` times; `name` is ``"start"`` or ``"end"``."""
    at = _checks.number(value, name)
    if at not in known:
        told = ", ".join(f"{t:g}" for t in known)
        which = "a later" if name == "end" else "an earlier"
        raise ValueError(_checks.message(name, f"{at:g}", f"{which} time of the fit: {told}"))
    return at


@dataclass(frozen=True, eq=False)
class _Question:
    """To which groups of the cells at one time the paths of all others lead."""

    adata: AnnData
    fit: Fit | Ensemble | Coupled
    n_futures: int
    neighbours: int
    growth: bool

    @property
    def known(self) -> Sequence[float]:
        """Times of the snapshots."""
        fit = self.fit
        return fit.transitions.times if isinstance(fit, Coupled) else fit.course.times

    def answer(self, name: str, at: float, labels: pd.Series, rng: Rng) -> None:
        """Find the probabilities of the groups at the time `at`, then write them under `name`."""
        generator, (times, x) = _checks.as_generator(rng, "rng"), cells_of(self.adata, self.fit)
        there = labelled_at(times, labels, at)
        groups = sorted(set(labels.iloc[there]))
        tables = {kind: np.full((len(times), len(groups)), np.nan) for kind in ("", *ERRORS)}
        tables[""][there] = labels.iloc[there].to_numpy()[:, None] == np.array(groups)
        for time in (t for t in self.known if (t < at if name == "fates" else t > at)):
            rows = np.flatnonzero(times == time)
            if len(rows) == 0:
                continue
            if isinstance(self.fit, Coupled):
                chain = self.fit.transitions
                marks = labels.iloc[self.fit.index.rows[self.known.index(at)]].tolist()
                if time > at:
                    found = origins_by_plans(chain, marks, start=at, end=time)
                else:
                    found = fates_by_plans(chain, marks, start=time, end=at, growth=self.growth)
            else:
                ends = Snapshot(x[there], at, labels=labels.iloc[there].tolist())
                found = fates_by_flow(
                    self.fit,
                    Snapshot(x[rows], time),
                    ends,
                    n_futures=self.n_futures,
                    growth=self.growth,
                    neighbours=self.neighbours,
                    generator=generator,
                )
            tables[""][rows] = found.probabilities
            for kind, error in zip(ERRORS, (found.sampling_error, found.member_error), strict=True):
                tables[kind][rows] = 0.0 if error is None else error
        _write(self.adata, name, tables, groups)
        self.adata.uns[name] = {
            "method": "plans" if isinstance(self.fit, Coupled) else self.fit.method.name,
            "label_key": labels.name,
            "time": at,
            "growth": self.growth,
            "n_without": int((~np.isfinite(tables[""]).all(1)).sum()),
            **_clock(self.fit),
        }


def groups_of(
    adata: AnnData,
    fit: Fit | Ensemble | Coupled,
    label_key: str | None,
    *,
    terminal: Sequence[str] | None = None,
) -> pd.Series:
    """Group of each cell, None for cells without a label."""
    key = label_key_of({} if isinstance(fit, Coupled) else fit.origin, label_key)
    column = column_of(adata, key, "label_key")
    labels = column.astype(str).astype(object).where(column.notna(), None).rename(key)
    if terminal is None:
        return labels
    for name in terminal:
        _checks.choice(str(name), sorted(set(labels.dropna())), "terminal")
    return labels.where(labels.isin([str(name) for name in terminal]) | labels.isna(), OTHER)


def labelled_at(times: np.ndarray, labels: pd.Series, at: float) -> np.ndarray:
    """Return the rows of the cells at the time `at` that have a label."""
    there = np.flatnonzero((times == at) & labels.notna())
    if len(there) == 0:
        got = f"no cell with a label in obs[{labels.name!r}] at time {at:g}"
        raise ValueError(_checks.message("label_key", got, "labelled cells to end among"))
    return there


def _sinks(
    question: _Question, at: float, label_key: str | None, generator: torch.Generator
) -> pd.Series:
    """Sink of each cell at the time `at`, by its name; None for all others."""
    adata, fit = question.adata, question.fit
    if isinstance(fit, Coupled):
        expected = "labels that are groups: plans simulate no cell"
        raise ValueError(_checks.message("terminal", repr(SINKS), expected))
    times, x = cells_of(adata, fit)
    rows = np.flatnonzero(times == at)
    number = sinks(fit, Snapshot(x[rows], at), generator=generator).numpy()
    names = pd.Series([f"sink {k + 1}" for k in range(number.max() + 1)])
    if label_key is not None or fit.origin.get("label_key") is not None:
        labels = groups_of(adata, fit, label_key).iloc[rows]
        known = labels.notna().to_numpy()
        names.update(labels[known].groupby(number[known]).agg(lambda group: group.mode()[0]))
    again = names.duplicated(keep=False)
    names[again] += " " + (names.groupby(names).cumcount() + 1).astype(str)[again]
    out = pd.Series(None, adata.obs_names, dtype=object, name=SINKS)
    out.iloc[rows] = names[number]
    return out


def cells_of(adata: AnnData, fit: Fit | Ensemble | Coupled) -> tuple[np.ndarray, Tensor]:
    """Time of each cell, NaN where it has none, and states where they are asked for."""
    if not isinstance(fit, Coupled):
        _, times, states = states_and_times(adata, fit)
        return times, torch.from_numpy(states[:, : fit.course.dim])
    if fit.n_obs != adata.n_obs:
        expected = f"the {fit.n_obs} cells that were coupled"
        raise ValueError(_checks.message("adata", f"{adata.n_obs} cells", expected))
    times = np.full(adata.n_obs, np.nan)
    for time, rows in zip(fit.transitions.times, fit.index.rows, strict=True):
        times[rows] = time
    return times, torch.empty(0)


def _clock(fit: Fit | Ensemble | Coupled) -> dict[str, object]:
    """What the labels of time meant, and their column where it is known."""
    if isinstance(fit, Coupled):
        table = fit.index.table
        meant = {"time_labels": np.array(table.labels), "times": np.array(table.times)}
        return {"unit": table.unit, **meant}
    known = fit.origin["labels"]
    meant = {"time_labels": np.array(list(known)), "times": np.array(list(known.values()))}
    return {"time_key": fit.origin["time_key"] or "time", "unit": fit.course.unit, **meant}


def _write(adata: AnnData, name: str, tables: dict[str, np.ndarray], groups: list[str]) -> None:
    """Write probabilities, their errors where there are some, and entropies."""
    p = Fates(tuple(groups), torch.from_numpy(tables[""]), torch.empty(0))
    for kind, values in tables.items():
        if kind in ERRORS and not np.nansum(values) > 0:  # one future, or one member
            adata.obsm.pop(f"{name}{kind}", None)
        else:
            adata.obsm[f"{name}{kind}"] = pd.DataFrame(values, adata.obs_names, groups)
    adata.obs[f"{name.removesuffix('s')}_entropy"] = p.entropy.numpy()
