"""Errors of forecasts on courses cut short, beside predictions without a model."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow.pl import _cells, _frame

#: Columns of the table: what they are called, their marker and colour, filled where learned.
_SHOWN = {
    "model": ("flow, held", "o", _frame.PALETTE[0]),
    "recurrent": ("recurrent", "s", _frame.PALETTE[1]),
    "last": ("last snapshot", "<", "#6e6e6e"),
    "mean": ("moved on by its mean", "D", "#6e6e6e"),
}


def forecast(cells: AnnData, *, ax: Axes | None = None) -> Axes:
    """Draw how far forecasts of the last times were off, beside those without a model.

    Of `cells` that :func:`cellflow.tl.forecast` returned, on `ax` or a new figure. Filled dots are
    forecasts, open markers are yardsticks; grey bars reach up to the noise floor, the distance
    between two halves of the cells. Where an open marker is lowest, that is the better forecast.
    """
    table = _cells.written(cells, "uns", "forecast", call="forecast(fit, time=…)")
    ax = _frame.axes(ax, size=(4.2, 2.6))
    at = np.arange(len(table))
    ax.bar(at, table["floor"], width=0.7, color="#e6e6e6", zorder=0, label="noise floor")
    for shift, (name, (label, marker, ink)) in zip((-0.24, -0.08, 0.08, 0.24), _SHOWN.items()):
        fill = "white" if name in ("last", "mean") else ink
        ax.plot(at + shift, table[name], marker, label=label, color=ink, mfc=fill, ms=5)
    times = zip(table["time"], table["ahead"], strict=True)
    ax.set_xticks(at, [f"{time:g}\n(+{ahead:g})" for time, ahead in times])
    ax.set_xlim(-0.6, len(at) - 0.4)
    ax.set_ylim(bottom=0)
    unit = cells.uns.get("interpolation", {}).get("unit", "")
    _frame.dress(ax, x=f"forecast {unit or 'time'} (after the last known)", y="W1 (data units)")
    _frame.legend(ax, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
