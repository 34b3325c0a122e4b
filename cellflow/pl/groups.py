"""Groups over time: their shares, and where the cells of each go."""

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
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from cellflow import _checks
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
#: Width of a block, where both columns are one apart; and the gap between two, in lines of text.
_WIDTH, _GAP = 0.05, 0.4
#: Inches from one label to the next at least, and of all blocks without the gaps between them.
_ROW, _HEIGHT = 0.15, 2.2


def composition(
    adata: AnnData,
    *,
    label_key: str | None = None,
    palette: _cells.Palette | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the share of each label over time, as predicted beside what was observed.

    Of cells `adata` with ``uns["composition"]``, as :func:`cellflow.tl.composition` writes it. One
    panel for each label, each with a scale of its own from zero: on as many axes `ax`, in the order
    of the labels, which are returned, or in a new figure. Dots are observed shares, diamonds
    predicted ones, squares those of days that a fit did not see; bars are 95 % intervals over the
    cells sampled. The line joins observed shares as if each label grew at a constant rate between
    them; the dash at a square is what that says of the day held out. Labels have the colours of a
    column `label_key` of ``obs``, that of the table when omitted; `palette` is as in
    :func:`trajectories`.
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


def transitions(
    table: pd.DataFrame,
    adata: AnnData | None = None,
    *,
    label_key: str | None = None,
    palette: _cells.Palette | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much goes from each label before to each label after, as an alluvial diagram.

    Blocks on the left are rows of the `table`, those on the right its columns; a band between two
    is as wide as the mass that goes, and has the colour of its row. Labels with no mass are left
    out. Masses are as ``cellflow.tl.transitions(adata, fit, normalize=None)`` returns them; where
    rows sum to one, all blocks before are equal. Names of the index and of the columns say which
    times these are. Labels have the colours of a column `label_key` of ``obs`` of cells `adata`;
    `palette`, `title` and `ax` are as in :func:`trajectories`.
    """
    table = _checked(table)
    before, after = ([str(v) for v in axis] for axis in (table.index, table.columns))
    labels = tuple(dict.fromkeys((*before, *after)))
    if adata is not None and label_key is not None:
        colors = _cells.label_colors(adata, label_key, palette)
        for label in labels:
            _checks.choice(label, colors, "label_key")
    elif adata is None and label_key is None:
        colors = dict(zip(labels, _cells.colors_of(labels, palette), strict=True))
    else:
        missing = "label_key" if label_key is None else "adata"
        raise ValueError(_checks.message(missing, "None", "cells and a column of theirs, or none"))
    flow = table.to_numpy(dtype=float)
    ends, inch = (flow.sum(1), flow.sum(0)), flow.sum() / _HEIGHT
    tops = [_tops(mass, _ROW * inch) for mass in ends]
    ax = _frame.axes(ax, size=(3.8, 2 * max(top[0] for top in tops) / inch + 0.5))
    for x, top, mass, names in zip((-_WIDTH, 1.0), tops, ends, (before, after), strict=True):
        _draw_blocks(ax, x, top, mass, names, colors=colors)
    starts, stops = tops[0].copy(), tops[1].copy()
    for i, name in enumerate(before):
        for j in np.flatnonzero(flow[i]):
            band = _band(starts[i], stops[j], flow[i, j])
            ax.add_patch(PathPatch(band, fc=colors[name], alpha=0.5, lw=0, zorder=1))
            starts[i] -= flow[i, j]
            stops[j] -= flow[i, j]
    _frame.dress(ax, x="", y="", title=title or "")
    times = [str(axis.name or "") for axis in (table.index, table.columns)]
    ax.set_xticks([-_WIDTH / 2, 1 + _WIDTH / 2], times)
    ax.set_yticks([])
    ax.tick_params(length=0, labelsize=_frame.FONT)
    ax.spines[:].set_visible(False)
    ax.set_xlim(-_WIDTH, 1 + _WIDTH)
    ax.margins(y=0.02)
    return ax


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without empty rows and columns."""
    expected, remedy = "a table of masses", "Call cellflow.tl.transitions."
    values = table.to_numpy(dtype=float)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        got = "negative, missing or only zero masses"
        raise ValueError(_checks.message("table", got, expected, remedy))
    return table.loc[values.sum(1) > 0, values.sum(0) > 0]


def _tops(mass: np.ndarray, tall: float) -> np.ndarray:
    """Upper ends of blocks of these heights, one below the other, centred around zero.

    Each has room for a line of text, `tall`, or for its height and a gap.
    """
    room = np.maximum(mass + _GAP * tall, tall)
    slots = room.cumsum() - room / 2
    return room.sum() / 2 - slots + mass / 2


def _draw_blocks(
    ax: Axes,
    x: float,
    tops: np.ndarray,
    mass: np.ndarray,
    names: Sequence[str],
    *,
    colors: dict[str, Any],
) -> None:
    """Draw a column of blocks, with names on the outer side."""
    left = x < 0
    text: dict[str, Any] = {"fontsize": _frame.SMALL, "va": "center", "annotation_clip": False}
    text |= {"ha": "right" if left else "left"}
    text |= {"xytext": (-3 if left else 3, 0), "textcoords": "offset points"}
    for top, height, name in zip(tops, mass, names, strict=True):
        place = (x, top - height)
        ax.add_patch(Rectangle(place, _WIDTH, height, color=colors[name], lw=0.4, zorder=2))
        edge = (x if left else x + _WIDTH, top - height / 2)
        ax.annotate(name, edge, **text)


def _band(left: float, right: float, width: float) -> Path:
    """Band of a width between two blocks, from its upper ends at both."""
    upper = [(0.0, left), (0.5, left), (0.5, right), (1.0, right)]
    lower = [(x, y - width) for x, y in reversed(upper)]
    curve = [Path.CURVE4] * 3
    return Path(
        [*upper, *lower, (0.0, left)], [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY]
    )
