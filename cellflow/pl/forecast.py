"""Errors of forecasts on courses cut short, beside predictions without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow.pl import _cells, _frame

#: Columns of the table: what they are called, and their marker, filled for what is learned.
_SHOWN = {
    "model": ("flow, held", "o"),
    "recurrent": ("recurrent", "s"),
    "last": ("last snapshot", "<"),
    "mean": ("moved on by its mean", "D"),
}


def forecast(cells: AnnData, *, ax: Axes | None = None) -> Axes:
    """Draw how far forecasts of the last times were off, beside those without a model.

    Filled dots are forecasts, open markers are yardsticks. The grey bar reaches up to the noise
    floor, the distance between two halves of the cells of that time. Where an open marker is
    lowest, that is the better forecast.

    Parameters
    ----------
    cells
        What :func:`cellflow.tl.forecast` returned, with ``uns["forecast"]``.
    ax
        Where to draw; a new figure when omitted.
    """
    table = _cells.written(cells, "uns", "forecast", call="forecast(fit, time=…)")
    ax = _frame.axes(ax, size=(4.2, 2.6))
    at = np.arange(len(table))
    grey: dict[str, Any] = {"width": 0.7, "color": "#e6e6e6", "zorder": 0}
    ax.bar(at, table["floor"], label="noise floor", **grey)
    colors = dict(zip(("model", "recurrent"), _frame.PALETTE, strict=False))
    for (name, (label, marker)), shift in zip(
        _SHOWN.items(), np.linspace(-0.24, 0.24, len(_SHOWN)), strict=True
    ):
        ink = colors.get(name, "#6e6e6e")
        style: dict[str, Any] = {"color": ink, "mfc": ink if name in colors else "white", "ms": 5}
        ax.plot(at + shift, table[name], marker, ls="", label=label, **style)
    ticks = [f"{t:g}\n(+{ahead:g})" for t, ahead in zip(table["time"], table["ahead"], strict=True)]
    ax.set_xticks(at, ticks)
    ax.set_xlim(-0.6, len(at) - 0.4)
    ax.set_ylim(bottom=0)
    unit = cells.uns.get("interpolation", {}).get("unit", "")
    _frame.dress(ax, x=f"forecast {unit or 'time'} (after the last known)", y="W1 (data units)")
    _frame.legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
