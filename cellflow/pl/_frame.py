"""Axes, fonts, colours, legends and colour bars of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from cellflow import _checks
from cellflow.metrics import METRICS

#: Points: journals ask for 5 to 7 at least, after the figure has been placed in a column.
FONT = 8
SMALL = 7
#: Entries beside each other in a legend, and panels beside each other in a figure.
_COLUMNS, _PANELS = 3, 4
GREY = "#b8b8b8"
DARK = "#3c3c3c"
#: Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow and black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
#: Time: dark to light, ending before the yellow that vanishes on white paper.
TIME_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.93, 256)), name="time")
#: Numbers around zero: blue below, red above.
SIGNED_COLORS = colormaps["RdBu_r"]


def metric_label(name: str) -> str:
    """Return what figures call the metric `name`."""
    return (METRICS[name].label if name in METRICS else "") or name


def axes(ax: Axes | None, *, size: tuple[float, float] = (3.6, 3.0)) -> Axes:
    """Return `ax`, or the axes of a new figure of `size` inches."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    elif not isinstance(ax, Axes):
        got = type(ax).__name__
        raise TypeError(_checks.message("ax", got, "a matplotlib Axes, or None for a new figure"))
    return ax


def row_of_axes(
    ax: Axes | Sequence[Axes] | None, n: int, *, extent: Sequence[float], height: float = 2.8
) -> np.ndarray:
    """Return `n` axes as an array, those given or of a new figure fit for data of `extent`.

    In a new figure more than four stand in several rows, each `height` inches high.
    """
    if ax is None:
        # Room for the title, the label and the legend; never too narrow for these.
        width = 0.3 + (height - 0.8) * float(extent[0]) / max(float(extent[1]), 1e-12)
        rows = max(1, -(-n // _PANELS))
        columns = -(-n // rows)
        size = (columns * float(np.clip(width, 1.8, 3.4)), rows * height)
        _, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for empty in grid.flat[n:]:
            empty.remove()
        return grid.ravel()[:n]
    several = list(ax.flat) if isinstance(ax, np.ndarray) else ax
    given = [ax] if isinstance(ax, Axes) else _checks.several(several, "ax")  # type: ignore[arg-type]
    if len(given) != n or not all(isinstance(a, Axes) for a in given):
        raise ValueError(_checks.message("ax", f"{len(given)} objects", f"{n} matplotlib Axes"))
    return np.array(given, dtype=object)


def dress(ax: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label the axes, in the fonts of all figures."""
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)
    if title:
        ax.set_title(title, fontsize=FONT)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def dress_row(
    axes: np.ndarray, handles: Sequence[Any], *, x: str, y: str, own: bool = True
) -> None:
    """Label the outer axes of a row, and add a legend: below the figure where it is our `own`."""
    columns = axes[0].get_subplotspec().get_gridspec().ncols if own else len(axes)
    for k, ax in enumerate(axes):
        dress(ax, x=x if k + columns >= len(axes) else "", y="" if k % columns else y)
    if not handles:
        return
    if own:
        figure, ncols = axes[0].figure, columns if columns < 4 else min(len(handles), 6)
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(handles) // ncols))
        below: dict[str, Any] = {"loc": "outside lower center", "ncols": ncols}
        figure.legend(handles=handles, fontsize=SMALL, frameon=False, **below)
    else:
        legend(axes[-1], handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


def around_zero(values: np.ndarray) -> Normalize:
    """Return the scale of :data:`SIGNED_COLORS`, white at zero, for these numbers."""
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return Normalize(-most, most)


def heatmap(ax: Axes, table: pd.DataFrame, label: str, *, square: bool = False) -> None:
    """Draw numbers around zero as coloured cells, with the names of rows and columns."""
    values = table.to_numpy(dtype=float)
    norm = around_zero(values)
    ax.imshow(values, cmap=SIGNED_COLORS, norm=norm, aspect="equal" if square else "auto")
    ax.set_xticks(range(table.shape[1]), [str(name) for name in table.columns], rotation=90)
    ax.set_yticks(range(len(table)), [str(name) for name in table.index])
    ax.tick_params(length=0, labelsize=SMALL)
    ax.spines[:].set_visible(False)
    colorbar(ax, norm, label, cmap=SIGNED_COLORS)


def round_below(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not above `value`."""
    digit = 10.0 ** np.floor(np.log10(value))
    return max(d * digit for d in (1, 2, 5) if d * digit <= value)


def spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Return the nearest numbers to `places`, by squares, that are at least `gap` apart."""
    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    out = np.empty(len(places))
    out[order] = isotonic_regression(places[order] - steps) + steps
    return out


def dress_embedding(ax: Axes, basis: str, dims: Sequence[int], *, title: str | None = None) -> None:
    """Label the axes of an embedding; its coordinates carry no unit, so there are no ticks."""
    name = basis.removeprefix("X_")
    name = "PC" if name == "pca" else name.upper() if len(name) <= 5 else name
    dress(ax, x=f"{name} {dims[0] + 1}", y=f"{name} {dims[1] + 1}", title=title or "")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")


def legend(ax: Axes, **options) -> None:
    """Add a small legend without a frame."""
    options = {"fontsize": SMALL, "frameon": False, "handletextpad": 0.4} | options
    ax.legend(**options)


def legend_height(n: int) -> float:
    """Inches that a legend of `n` entries and a title takes below the axes."""
    return 0.155 * (-(-n // _COLUMNS) + 1.5)


def legend_below(ax: Axes, **options) -> None:
    """Add a small legend below the label of the x axis, at most three entries wide."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": _COLUMNS}
    legend(ax, **(place | {"columnspacing": 1.0, "borderaxespad": 0.4} | options))


def colorbar(ax: Axes, norm: Normalize, label: str, *, cmap: Colormap = TIME_COLORS) -> None:
    """Add a colour bar outside of `ax`, which keeps its place."""
    inset = ax.inset_axes((1.03, 0.15, 0.035, 0.7))
    bar = ax.figure.colorbar(ScalarMappable(norm, cmap), cax=inset)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)


def save(ax: Axes, file: Path) -> None:
    """Write the figure of `ax` to `file`, and close it."""
    figure = ax.figure
    while not isinstance(figure, Figure):  # a part of one
        figure = figure.figure
    figure.savefig(file, dpi=200, bbox_inches="tight")
    plt.close(figure)


def plural(unit: str) -> str:
    """Name a time axis: ``"time (days)"``."""
    return f"time ({unit}s)" if unit else "time"
