"""Fates of observed cells, where CellRank's users look for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Rng, Tensor
from cellflow.answers import Fates, fates_by_flow, fates_by_plans
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import column_of
from cellflow.timecourse import Snapshot
from cellflow.tl._reading import label_key_of, states_and_times
from cellflow.tl.coupled import Coupled

if TYPE_CHECKING:
    from anndata import AnnData

#: What is written beside probabilities, where it is known.
ERRORS = ("_sampling_error", "_member_error")
#: Group of the cells whose label is not among the terminal ones.
OTHER = "other"


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

    The futures of a cell are simulated to the `end`, and each counts for the groups of the
    observed cells around the place where it comes to; of plans, the descendants are followed from
    cell to cell (:mod:`cellflow.answers.fates`). Cells observed at the end have the group that
    they are in.

    Parameters
    ----------
    adata
        Cells with the representation and the time column that the fit was made from.
    fit
        A fit, an ensemble, or what :func:`cellflow.tl.couple` returned, which needs no training.
    label_key
        Column of ``obs`` with the groups; that of the fit when omitted. Cells without a label tell
        nothing.
    terminal
        Labels that are groups; those of all other cells count as ``"other"``. All when omitted.
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

    Returns
    -------
    None
        Writes ``obsm["fates"]``, a table with one column a group and rows of sum one, NaN for cells
        after the end and without a time; ``obs["fate_entropy"]``, from 0, one fate, to 1, all
        equally likely; and ``uns["fates"]``. Standard errors by the number of futures are in
        ``obsm["fates_sampling_error"]``, where there are several, and standard deviations between
        the members of an ensemble in ``obsm["fates_member_error"]``.
    """
    import pandas as pd

    label_key = label_key_of({} if isinstance(fit, Coupled) else fit.origin, label_key)
    labels = _groups(adata, label_key, terminal)
    known, times, x = _cells(adata, fit)
    last = known[-1] if end is None else _checks.number(end, "end")
    if last not in known[1:]:
        told = ", ".join(f"{t:g}" for t in known[1:])
        raise ValueError(_checks.message("end", f"{last:g}", f"a later time of the fit: {told}"))
    there = np.flatnonzero((times == last) & pd.notna(labels))
    if len(there) == 0:
        got = f"no cell with a label at time {last:g}"
        raise ValueError(_checks.message("label_key", got, "labelled cells to end among"))
    groups = sorted(set(labels[there]))
    n, generator = adata.n_obs, _checks.as_generator(rng, "rng")
    tables = {key: np.full((n, len(groups)), np.nan) for key in ("", *ERRORS)}
    tables[""][there] = pd.get_dummies(labels[there])[groups]
    for time in (t for t in known if t < last):
        rows = np.flatnonzero(times == time)
        if len(rows) == 0:
            continue
        if isinstance(fit, Coupled):
            marks = labels[fit.index.rows[known.index(last)]].tolist()
            found = fates_by_plans(fit.transitions, marks, start=time, end=last, growth=growth)
        else:
            found = fates_by_flow(
                fit,
                Snapshot(x[rows], time),
                Snapshot(x[there], last, labels=labels[there].tolist()),
                n_futures=n_futures,
                growth=growth,
                neighbours=neighbours,
                generator=generator,
            )
        tables[""][rows] = found.probabilities
        for key, error in zip(ERRORS, (found.sampling_error, found.member_error), strict=True):
            if error is not None:
                tables[key][rows] = error
    _write(adata, tables, groups)
    followed = np.isfinite(tables[""]).all(1)
    adata.uns["fates"] = {
        "method": "plans" if isinstance(fit, Coupled) else fit.method.name,
        "label_key": label_key,
        "end": last,
        "growth": growth,
        "n_without_fate": int((~followed).sum()),
    }


def _groups(adata: AnnData, key: str, terminal: Sequence[str] | None) -> np.ndarray:
    """Group of each cell, None for cells without a label."""
    column = column_of(adata, key, "label_key")
    labels = np.array(
        [None if missing else str(v) for v, missing in zip(column, column.isna(), strict=True)],
        dtype=object,
    )
    if terminal is None:
        return labels
    for name in terminal:
        _checks.choice(str(name), sorted({v for v in labels if v is not None}), "terminal")
    wanted = {str(name) for name in terminal}
    return np.array([v if v is None or v in wanted else OTHER for v in labels], dtype=object)


def _cells(
    adata: AnnData, fit: Fit | Ensemble | Coupled
) -> tuple[Sequence[float], np.ndarray, Tensor]:
    """Times of the snapshots, time of each cell, and states where they are asked for."""
    if not isinstance(fit, Coupled):
        _, times, states = states_and_times(adata, fit)
        return fit.course.times, times, torch.from_numpy(states[:, : fit.course.dim])
    if fit.n_obs != adata.n_obs:
        expected = f"the {fit.n_obs} cells that were coupled"
        raise ValueError(_checks.message("adata", f"{adata.n_obs} cells", expected))
    times = np.full(adata.n_obs, np.nan)
    for time, rows in zip(fit.transitions.times, fit.index.rows, strict=True):
        times[rows] = time
    return fit.transitions.times, times, torch.empty(0)


def _write(adata: AnnData, tables: dict[str, np.ndarray], groups: list[str]) -> None:
    """Write probabilities, their errors where there are some, and entropies."""
    import pandas as pd

    p = Fates(tuple(groups), torch.from_numpy(tables[""]), torch.empty(0))
    made = {
        f"fates{key}": pd.DataFrame(table, adata.obs_names, groups) for key, table in tables.items()
    }
    for key in ERRORS:
        values = made[f"fates{key}"].to_numpy()
        if not np.nansum(values) > 0:  # one future, or one member
            del made[f"fates{key}"]
            adata.obsm.pop(f"fates{key}", None)
    adata.obsm.update(made)
    adata.obs["fate_entropy"] = p.entropy.numpy()
