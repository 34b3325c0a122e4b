"""Cells of a time after the last one, and how far such forecasts were off."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.answers import forecast_errors, held, recurrent
from cellflow.fits import Fit
from cellflow.tl._reading import time_of
from cellflow.tl.interpolate import interpolate


def forecast(
    fit: Fit,
    *,
    time: float | str,
    kind: str = "flow",
    cuts: int = 2,
    steps: int | None = None,
    solver: str = "rk4",
    rng: Rng = 0,
) -> AnnData:
    """Predict the cells of a time after the last one, and say what such predictions were worth.

    The cells of the last snapshot are carried on, by the flow as it was then, since the fit knows
    no later time, or as cells like them have gone before. So the course is cut short, fitted again
    and compared with what came, beside predictions without a model:
    :func:`cellflow.answers.forecast_errors`.

    Parameters
    ----------
    fit
        What :func:`fit` returned for three times or more.
    time
        Time asked for, after the last one: a number in the fit's unit, or a label.
    kind
        ``"flow"``, or ``"recurrent"`` (:func:`cellflow.answers.recurrent`), which was nearer than
        the last snapshot more often where that was tried (:doc:`/benchmarks`).
    cuts
        How many of the last times, at most, are forecast from those before them; each is a fit.
    steps
        Training steps of these; those of the fit when omitted.
    solver, rng
        As in :func:`interpolate`.

    Returns
    -------
    AnnData
        As of :func:`interpolate`, with the table ``uns["forecast"]``: a row for each ``time`` that
        was left out, how far ``ahead`` of the last known one it was, and the W1 distances, in data
        units, of the ``model``, the ``recurrent`` one, the ``last`` snapshot as it was, the same
        moved on with its ``mean``, and the ``floor``. Where the model is no better than these,
        neither is the forecast; one further ahead is worse.
    """
    _checks.choice(kind, ("flow", "recurrent"), "kind")
    at, last = time_of(fit, time), fit.course.times[-1]
    if at <= last:
        remedy = "Within the course, call cellflow.tl.interpolate."
        raise ValueError(_checks.message("time", f"{at:g}", f"one after {last:g}", remedy))
    found = forecast_errors(fit, cuts=cuts, steps=steps, solver=solver, generator=rng)
    going = held(fit) if kind == "flow" else recurrent(fit, generator=rng)
    out = interpolate(going, time=at, solver=solver, rng=rng)
    out.uns["forecast"] = pd.DataFrame([asdict(row) for row in found])
    return out
