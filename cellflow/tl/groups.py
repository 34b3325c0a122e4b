"""Groups of cells over time: their shares, and what goes from each to each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
import torch
from anndata import AnnData
from tqdm.auto import tqdm

from cellflow import _checks, answers
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.answers import composition as shares
from cellflow.answers.composition import Shares
from cellflow.fits import Ensemble, Fit, Interpolation
from cellflow.logging import shown
from cellflow.methods import Method
from cellflow.pp.access import column_of
from cellflow.timecourse import TimeCourse
from cellflow.tl._reading import label_key_of, labelled_course, time_of
from cellflow.tl.coupled import Coupled, table_of


def composition(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    label_key: str | None = None,
    times: Sequence[float] | None = None,
    held_out: bool = False,
    steps: int | None = None,
    rng: Rng = 0,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Shares of each label over time: observed, predicted, and interpolated without a model.

    A predicted cell has the label of the observed cells around the place it came to, and counts
    by its mass (:mod:`cellflow.answers.composition`). What a prediction must beat are the shares
    of the neighbouring days, interpolated as they are (``"arithmetic"``), or as if each label grew
    at a constant rate (``"geometric"``).

    The table has one row for each time, label and source: ``"observed"``, ``"predicted"``, ``"held
    out"``, ``"arithmetic"`` or ``"geometric"``, with its ``share`` and, where cells were sampled, a
    95 % interval, ``low`` to ``high``, elsewhere NaN. The same is in ``uns["composition"]``, and
    the column and the unit of time are in ``uns["composition_fit"]``.

    Parameters
    ----------
    adata, fit
        As in :func:`simulate`.
    label_key, rng
        As in :func:`fates`.
    times
        Times to predict, between the observed ones; when omitted, half-way between them.
    held_out
        Whether to predict each inner day by a fit to the others, too.
    steps, progress
        Training steps of these fits; the method's own when omitted. And whether to show their
        progress.
    """
    course = labelled_course(adata, fit, label_key)
    names = sorted({label for s in course.snapshots for label in s.labels or ()})
    seen, generator = shares.observed(course, names), _checks.as_generator(rng, "rng")
    middles = [(a + b) / 2 for a, b in pairwise(course.times)]
    asked = middles if times is None else [_checks.number(t, "times") for t in times]
    found = [("observed", s) for s in seen]
    for time in asked:
        found.append(("predicted", _predicted(fit, course, time, names, generator)))
    days = range(1, len(course) - 1) if held_out else ()
    for k in tqdm(days, disable=not (days and shown(progress))):
        again = _without(fit, k, steps, generator)
        made = _predicted(again, course.without(k), course.times[k], names, generator)
        found.append(("held out", made))
    yardsticks = {
        (time, how): shares.interpolated(seen, time, how)
        for time in sorted({s.time for source, s in found if source != "observed"})
        for how in shares.YARDSTICKS
    }
    tables = [_table(names, source, s.time, s.mean, s.low, s.high) for source, s in found]
    tables += [_table(names, how, time, mean) for (time, how), mean in yardsticks.items()]
    out = pd.concat(tables).sort_values("time", kind="stable", ignore_index=True)
    adata.uns["composition"] = out.copy()
    key = label_key_of(fit.origin, label_key)
    adata.uns["composition_fit"] = {"label_key": key, "unit": fit.course.unit}
    return out


def _predicted(
    fit: Fit | Ensemble, course: TimeCourse, time: float, names: list[str], rng: torch.Generator
) -> Shares:
    cells = fit.interpolate(time, generator=rng)
    population = cells.pooled if isinstance(cells, Interpolation) else cells
    return shares.predicted(course, population, names, preprocessing=fit.preprocessing)


def _without(fit: Fit | Ensemble, k: int, steps: int | None, generator: torch.Generator) -> Fit:
    """Fit the method of `fit` to the course without snapshot `k`, in the same coordinates."""
    if not isinstance(fit.method, Method):
        got, expected = f"a fit of {fit.method.name!r}", "one of a method that can be fitted again"
        raise ValueError(_checks.message("held_out", got, expected))
    seed, prep = draw_seed(generator), fit.preprocessing
    return fit.method.fit(
        fit.course.without(k), steps=steps, generator=seed, preprocessing=prep, progress=False
    )


def _table(names: list[str], source: str, time: float, mean: Tensor, *ends: Tensor) -> pd.DataFrame:
    """One row for each label, with the `ends` of an interval where they are known."""
    low, high = ends or (torch.full_like(mean, torch.nan),) * 2
    columns = {"time": time, "label": names, "source": source, "share": mean.numpy()}
    return pd.DataFrame(columns | {"low": low.numpy(), "high": high.numpy()})


def transitions(
    adata: AnnData,
    fit: Fit | Ensemble | Coupled,
    *,
    label_key: str | None = None,
    start: float | str | None = None,
    end: float | str | None = None,
    normalize: str | None = "start",
    n_futures: int = 10,
    neighbours: int = 15,
    rng: Rng = 0,
) -> pd.DataFrame:
    """Share of the cells of each group at one time that come to each group at a later one.

    The futures of the cells at the `start` are simulated to the `end`, and weigh by their mass
    where the method learned growth. What is predicted has the labels of the observed cells around
    it. Of plans, descendants are followed from cell to cell, between observed times.

    The table has one row for each group at the start, one column for each group at the end; both
    axes are named by their time. Drawn by :func:`cellflow.pl.transitions`.

    Parameters
    ----------
    adata, fit, label_key, neighbours, rng
        As in :func:`fates`.
    start, end
        Times, or labels of the time column, observed or not; the first and the last when omitted.
    normalize
        ``"start"``: rows sum to one, the fates of each group; ``"end"``: columns do, its origins;
        None: masses, of total one but for growth.
    n_futures
        Futures of each cell by each member.
    """
    if isinstance(fit, Coupled):
        first, *_, last = fit.transitions.times
        labels = column_of(adata, label_key_of({}, label_key), "label_key")
        ends = first if start is None else start, last if end is None else end
        return fit.table(labels, *ends, normalize=normalize)
    first, *_, last = fit.course.times
    start = first if start is None else time_of(fit, start, "start")
    end = last if end is None else time_of(fit, end, "end")
    times, course = (start, end), labelled_course(adata, fit, label_key)
    found = answers.transitions(
        fit, course, times, n_futures=n_futures, neighbours=neighbours, generator=rng
    )
    axes, unit = (found.before, found.after), fit.course.unit
    return table_of(found.mass.numpy(), axes, times, unit=unit, normalize=normalize)
