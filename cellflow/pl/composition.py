"""Shares of labels over time, observed, predicted and interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cellflow.answers.composition import geometric
from cellflow.pl import _cells, _frame

#: Marker and fill of each source; the label's colour where no fill is named.
_STYLES: dict[str, dict[str, Any]] = {
    "observed": {"marker": "o", "ms": 4},
    "predicted": {"marker": "D", "ms": 4, "mfc": "white"},
    "held out": {"marker": "s", "ms": 6, "mfc": "none"},
}
_DASH: dict[str, Any] = {"marker": "_", "ms": 10, "mew": 1.2, "ls": "", "zorder": 1}
_LINE: dict[str, Any] = {"lw": 0.8, "alpha": 0.7, "zorder": 1}
#: Points of the line between two observed times.
_STEPS = 17


def composition(
    adata: AnnData,
    *,
    label_key: str | None = None,
    palette: _cells.Palette | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the share of each label over time, as predicted beside what was observed.

    One panel for each label, each with a scale of its own from zero. Dots are observed shares,
    diamonds predicted ones, squares those of days that a fit did not see; bars are 95 % intervals
    over the cells sampled. The line joins observed shares as if each label grew at a constant rate
    between them; the dash at a square is what that says of the day held out.

    Parameters
    ----------
    adata
        Cells with ``uns["composition"]``, as :func:`cellflow.tl.composition` writes it.
    label_key, palette
        Column of ``obs`` whose colours labels have, that of the table when omitted; and colours as
        in :func:`trajectories`.
    ax
        Where to draw: an axes for each label, in their order, which are returned; a new figure when
        omitted.
    """
    table = _cells.written(adata, "uns", "composition", call="composition(adata, fit)")
    about = adata.uns.get("composition_fit", {})
    shares = {
        source: part.drop_duplicates(["time", "label"]).pivot(
            index="time", columns="label", values=["share", "low", "high"]
        )
        for source, part in table.astype({"source": str, "label": str}).groupby("source")
    }
    seen = shares["observed"]["share"]
    key = about.get("label_key") if label_key is None else label_key
    colors = _cells.named_colors(adata, list(seen.columns), key, palette)
    labels = list(colors)
    times, lines = _geometric(seen[labels])
    axes = _frame.row_of_axes(ax, len(labels), extent=(1.7, 1.0), height=1.7)
    for panel, label, line in zip(axes, labels, lines, strict=True):
        panel.plot(times, line, color=colors[label], **_LINE)
        _draw_shares(panel, shares, label, colors[label])
        panel.set_title(label, fontsize=_frame.FONT)
    sources = [source for source in _STYLES if source in shares]
    x, y = _frame.plural(about.get("unit", "")), "share of cells"
    _frame.dress_row(axes, _legend(sources), x=x, y=y, own=ax is None)
    return axes


def _geometric(shares: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Times (T,) and shares (k, T) of the labels, interpolated between observed times."""
    steps = np.linspace(0, 1, _STEPS)
    rows = torch.from_numpy(shares.to_numpy())
    found = [torch.stack([geometric(a, b, s) for s in steps]) for a, b in pairwise(rows)]
    times = [a + (b - a) * steps for a, b in pairwise(shares.index)]
    return np.concatenate(times), torch.cat(found).T.numpy()


def _draw_shares(ax: Axes, shares: dict[str, pd.DataFrame], label: str, color: Any) -> None:
    """Draw the shares of one label by all sources."""
    for order, (source, style) in enumerate(_STYLES.items(), 2):
        if source in shares:
            mean, low, high = (shares[source][name][label] for name in ("share", "low", "high"))
            bars = np.maximum([mean - low, high - mean], 0.0)  # a bootstrap may miss the mean
            options: dict[str, Any] = {"ls": "", "elinewidth": 0.8, "mew": 0.9, "zorder": order}
            ax.errorbar(mean.index, mean, yerr=bars, color=color, **options, **style)
    if "held out" in shares:
        left_out = shares["geometric"]["share"][label].loc[shares["held out"].index]
        ax.plot(left_out.index, left_out, color=color, **_DASH)
    ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # else a marker at zero is cut in half
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter("{x:g}")


def _legend(sources: list[str]) -> list[Line2D]:
    """What the marks of the `sources`, and the lines, mean."""
    entries = {source: _STYLES[source] | {"ls": ""} for source in sources}
    entries["geometric interpolation"] = _LINE
    if "held out" in entries:
        entries["geometric, held out"] = _DASH
    return [
        Line2D([], [], color=_frame.DARK, label=name, **style) for name, style in entries.items()
    ]
