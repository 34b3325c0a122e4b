"""Axes, fonts, colours, legends and colour bars of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from cellflow import _checks
from cellflow.metrics import METRICS

#: Points: journals ask for 5 to 7 at least, after the figure has been placed in a column.
FONT = 8
SMALL = 7
#: Entries beside each other in a legend.
_COLUMNS = 3
GREY = "#b8b8b8"
DARK = "#3c3c3c"
#: Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow and black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
#: Time: dark to light, ending before the yellow that vanishes on white paper.
TIME_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.93, 256)), name="time")


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
    """Return `n` axes as an array, those given or of a new figure fit for data of `extent`."""
    if ax is None:
        # Room for the title, the label and the legend; never too narrow for these.
        width = 0.3 + (height - 0.8) * float(extent[0]) / max(float(extent[1]), 1e-12)
        size = (n * float(np.clip(width, 1.8, 3.4)), height)
        _, grid = plt.subplots(1, n, figsize=size, layout="constrained", squeeze=False)
        return grid[0]
    given = np.ravel(np.asarray(ax, dtype=object))
    if len(given) != n or not all(isinstance(a, Axes) for a in given):
        raise ValueError(_checks.message("ax", f"{len(given)} objects", f"{n} matplotlib Axes"))
    return given


def dress(ax: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label the axes, in the fonts of all figures."""
    ax.set_xlabel(x, fontsize=FONT)
    ax.set_ylabel(y, fontsize=FONT)
    if title:
        ax.set_title(title, fontsize=FONT)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)


def basis_name(basis: str) -> str:
    """Return what axes call an embedding: ``"PC"``, ``"UMAP"``."""
    name = basis.removeprefix("X_")
    return "PC" if name == "pca" else name.upper() if len(name) <= 5 else name


def dress_embedding(ax: Axes, basis: str, dims: Sequence[int], *, title: str | None = None) -> None:
    """Label the axes of an embedding; its coordinates carry no unit, so there are no ticks."""
    name = basis_name(basis)
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
