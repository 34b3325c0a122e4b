"""Tables of what goes from each group to each other over two times."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from cellflow import answers
from cellflow._typing import Rng
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import column_of
from cellflow.tl._reading import label_key_of, labelled_course, time_of
from cellflow.tl.coupled import Coupled, table_of


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

    Returns
    -------
    DataFrame
        One row for each group at the start, one column for each group at the end; both axes are
        named by their time. Drawn by :func:`cellflow.pl.transitions`.
    """
    if isinstance(fit, Coupled):
        first, *_, last = fit.transitions.times
        labels = column_of(adata, label_key_of({}, label_key), "label_key")
        ends = first if start is None else start, last if end is None else end
        return fit.table(labels, *ends, normalize=normalize)
    first, *_, last = fit.course.times
    times = (
        first if start is None else time_of(fit, start, "start"),
        last if end is None else time_of(fit, end, "end"),
    )
    course = labelled_course(adata, fit, label_key)
    found = answers.transitions(
        fit, course, times, n_futures=n_futures, neighbours=neighbours, generator=rng
    )
    axes, unit = (found.before, found.after), fit.course.unit
    return table_of(found.mass.numpy(), axes, times, unit=unit, normalize=normalize)
