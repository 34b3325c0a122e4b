"""Which gene acts on which: the Jacobian of the fitted dynamics, averaged over cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow.answers.influence import influence as mean_influence
from cellflow.fits import Ensemble, Fit
from cellflow.pp.access import column_of
from cellflow.tl._genes import columns_of, loadings_of
from cellflow.tl._reading import label_key_of, states_and_times, time_of

#: Genes in a table, at most, unless they are named.
MANY = 2000


def influence(
    adata: AnnData,
    fit: Fit | Ensemble,
    genes: str | Sequence[str] | None = None,
    *,
    group: str | None = None,
    label_key: str | None = None,
    times: Sequence[float | str] | None = None,
    drift: bool | None = None,
) -> pd.DataFrame:
    """Tell what one unit more of each gene would add to the velocity of every other, by the fit.

    See :func:`cellflow.answers.influence`. A hypothesis, and no evidence that one gene regulates
    another: snapshots seldom tell causes from what goes along with them.

    The table is genes × genes, per unit of time: in a row what changes, in a column what is more.
    The same is in ``uns["influence"]``. ``uns["influence_strength"]`` has means of absolute values,
    in which opposite signs in different cells do not cancel, and of an ensemble
    ``uns["influence_std"]`` the standard deviation between members. ``uns["influence_params"]``
    says over how many cells.

    Parameters
    ----------
    adata, fit
        Where the table is written, and what :func:`fit` returned.
    genes
        Genes of the table; all that the fit knows of when omitted.
    group, label_key
        A value of this column of ``obs``, that of the fit when omitted: cells to average over; all
        of them when omitted.
    times
        Times of these cells; all of them when omitted.
    drift
        Whether to take the drift of the stochastic dynamics and not the velocity of the flow; where
        the method learned both when omitted.
    """
    known, loadings = loadings_of(adata, fit)
    names, rows = columns_of(known, known if genes is None else genes)
    if genes is None and len(names) > MANY:
        got, remedy = f"None, and {len(names):,} genes", "Name those of interest."
        raise ValueError(_checks.message("genes", got, f"at most {MANY:,}", remedy))
    _, all_times, x = states_and_times(adata, fit)
    chosen = np.isfinite(all_times)
    if times is not None:
        chosen &= np.isin(all_times, [time_of(fit, time, "times") for time in times])
    if group is not None:
        key = label_key_of(fit.origin, label_key)
        labels = column_of(adata, key, "label_key").astype(str).to_numpy()
        chosen &= labels == _checks.choice(str(group), {str(label) for label in labels}, "group")
    if not chosen.any():
        got = f"no cell of group {group!r} at times {times}"
        raise ValueError(_checks.message("group", got, "one or more"))
    first = fit.members[0] if isinstance(fit, Ensemble) else fit
    drift = first.dynamics.score is not None if drift is None else drift
    states = torch.from_numpy(x[chosen, : fit.course.dim])
    found = mean_influence(
        fit, all_times[chosen], states, loadings=loadings, rows=rows, drift=drift
    )
    axes = pd.Index(names, name="gene"), pd.Index(names, name="by")
    written = {"influence": found.jacobian, "influence_strength": found.strength}
    if len(found.members) > 1:
        written["influence_std"] = found.members.std(0)
    params = {"n": found.n, "field": "drift" if drift else "velocity", "group": str(group)}
    tables = {key: pd.DataFrame(value.numpy(), *axes) for key, value in written.items()}
    adata.uns.pop("influence_std", None)
    adata.uns.update(tables, influence_params=params)
    return tables["influence"].copy()
