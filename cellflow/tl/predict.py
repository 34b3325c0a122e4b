"""Cells as they would be under conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.conditions import Condition
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import Snapshot
from cellflow.tl._reading import masses_of, states_and_times, time_of
from cellflow.tl.interpolate import Decoder, Wanted, pooled, population


def predict(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    condition: Condition | list[Condition],
    time: float | str | None = None,
    guidance: float | None = None,
    solver: str = "rk4",
    rng: Rng = 0,
    genes: Sequence[str] | None = None,
    decoder: Decoder | None = None,
) -> AnnData:
    """Cells as they would be under one or several conditions, seen or not.

    The cells of the first time point of `adata` are carried to `time` under each condition. A
    condition that no cell was under can be told as long as its covariates know of its values: a
    combination of drugs that were seen alone, a dose between others, a level with an embedding.
    How far to trust that says :func:`cellflow.tl.holdout_conditions`.

    Parameters
    ----------
    adata
        Cells to carry, such as ``adata[adata.obs["drug"] == "control"]``; of several time points
        those of the first.
    fit
        Of conditions: what :func:`cellflow.tl.fit` returned for a ``condition_key``.
    condition
        A value of each covariate, ``{"drug": "A+B", "dose": 3.0}``, or of the only one; a list of
        them for several conditions.
    time
        Time asked for, as in :func:`cellflow.tl.interpolate`; the last of the fit when omitted.
    guidance
        1 for what was learned; more exaggerates what the condition changes. When omitted, less
        where chance explains it, with a warning where it explains all: see
        :meth:`cellflow.fits.Fit.given`.
    solver, rng
        As in :func:`cellflow.tl.simulate`.
    genes, decoder
        As in :func:`cellflow.tl.expression`. An empty list of genes leaves them out.

    Returns
    -------
    AnnData as that of :func:`cellflow.tl.interpolate`, whose ``obs`` has the covariates of each
    cell's condition as text, that as a whole in ``"condition"``, and the name of the cell that was
    carried in ``"origin"``.
    """
    known = fit.course.conditions
    if known is None:
        got, remedy = "a fit without conditions", "Fit with a `condition_key`."
        raise ValueError(_checks.message("fit", got, "one with conditions", remedy))
    asked = list(condition) if isinstance(condition, list) else [condition]
    if not asked or len({known.text(one) for one in asked}) < len(asked):
        got = "one more than once" if asked else "none"
        raise ValueError(_checks.message("condition", got, "one or several different ones"))
    time = fit.course.times[-1] if time is None else time_of(fit, time)
    _, times, states = states_and_times(adata, fit)
    rows = np.flatnonzero(times == np.nanmin(times))
    x = torch.from_numpy(states[rows, : fit.course.dim])
    mass = torch.from_numpy(masses_of(adata, fit)[rows]).to(x.dtype)
    start, out = Snapshot(x, float(np.nanmin(times)), mass), []
    for one in asked:
        bound = fit.given(one, guidance=guidance)
        cells, told = pooled(bound.predict(start, time, solver=solver, generator=rng))
        names, text = np.resize(adata.obs_names[rows], len(cells)), known.text(one)
        columns: dict[str, Any] = {fit.origin.get("time_key") or "time": np.full(len(cells), time)}
        columns |= {"mass": cells.mass.cpu().numpy(), "origin": names, "condition": text, **told}
        columns |= known.told(one)
        obs = pd.DataFrame(columns, index=[f"{text}-{name}-{k}" for k, name in enumerate(names)])
        wanted = Wanted(genes, decoder, True)
        out.append(population(fit, cells.x.cpu().numpy(), obs, wanted=wanted))
    return ad.concat(out, merge="same", uns_merge="first") if len(out) > 1 else out[0]
