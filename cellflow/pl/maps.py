"""Maps of what is known at each cell, with a panel beside: differences, growth, uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow.pl import _cells, _frame
from cellflow.pp.access import column_of

#: p value below which a dot is filled, and where the dashed line is.
_LEVEL = 0.05


def comparison(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the difference between the flows of two conditions at each cell, and p by time.

    Of cells `adata` with the embedding, ``uns["comparison"]`` and ``obs["flow_difference"]``, as
    :func:`cellflow.tl.compare` writes them; with `basis`, `dims` and `size` as in
    :func:`trajectories`; on two axes `ax`, for the map and the p values, which are returned, or in
    a new figure. Dots below the dashed line, p = 0.05, are filled; the title says p of all times
    together.
    """
    call = "compare(adata, condition_key=…, time_key=…)"
    table = _cells.written(adata, "uns", "comparison", call=call)
    values = np.asarray(_cells.written(adata, "obs", "flow_difference", call=call), dtype=float)
    about = adata.uns.get("comparison_fit", {})
    axes = _frame.row_of_axes(ax, 2, extent=(1.2, 1.0), height=2.4)
    norm = Normalize(0, float(np.nanquantile(values, 0.99)) or 1.0)  # a few are far larger
    unit = f" per {about['unit']}" if about.get("unit") else ""
    numbers = _cells.Numbers(f"difference{unit}", values, norm, _frame.TIME_COLORS)
    names = " and ".join(map(str, about.get("conditions", ())))
    _cells.draw_map(axes[0], adata, numbers, basis=basis, dims=dims, size=size, title=names)
    times, whole = table[table["time"].notna()], table.loc[table["time"].isna(), "p"].iloc[0]
    sure = times["p"].to_numpy() < _LEVEL
    axes[1].plot(times["time"], times["p"], color=_frame.GREY, lw=0.8)
    fill = np.where(sure, _frame.DARK, "white")
    ring: dict[str, Any] = {"ec": _frame.DARK, "lw": 0.8, "clip_on": False, "zorder": 3}
    axes[1].scatter(times["time"], times["p"], s=18, fc=fill, **ring)
    axes[1].axhline(_LEVEL, color=_frame.GREY, lw=0.6, ls=(0, (3, 2)), zorder=0)
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].set_ylim(min(0.01, float(times["p"].min())) / 1.3, 1.2)
    x = _frame.plural(about.get("unit", ""))
    _frame.dress(axes[1], x=x, y="p", title=f"all times: p = {whole:.2g}")
    return axes


def growth(
    adata: AnnData,
    *,
    basis: str = "umap",
    dims: tuple[int, int] = (0, 1),
    label_key: str | None = None,
    key: str = "growth",
    palette: _cells.Palette | None = None,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the learned growth rate of each cell, births in red and deaths in blue.

    Parameters
    ----------
    adata
        Cells with the embedding and ``obs["growth"]``, as :func:`cellflow.tl.growth` writes it.
    basis, dims, palette, size
        As in :func:`trajectories`.
    label_key, key
        Column of ``obs``: a second panel has the median rate of each of its groups, with the middle
        half and the middle 90 % of its cells. And ``key_added`` of :func:`cellflow.tl.growth`.
    ax
        Where to draw: one axes for the map and, with `label_key`, one for the groups, which are
        returned; a new figure when omitted.
    """
    rates = np.asarray(_cells.written(adata, "obs", key, call="growth(adata, fit)"), dtype=float)
    unit = adata.uns.get(f"{key}_fit", {}).get("unit", "")
    known = rates[np.isfinite(rates)]
    norm = _frame.around_zero(np.quantile(known, (0.01, 0.99)) if len(known) else known)
    axis = f"growth rate ({unit})" if unit else "growth rate"
    colors = {} if label_key is None else _cells.label_colors(adata, label_key, palette)
    height = max(2.4, 0.75 + 0.17 * len(colors))
    axes = _frame.row_of_axes(ax, 1 + bool(colors), extent=(1.2, 1.0), height=height)
    numbers = _cells.Numbers(axis, rates, norm, _frame.SIGNED_COLORS)
    _cells.draw_map(axes[0], adata, numbers, basis=basis, dims=dims, size=size)
    if label_key is not None:
        labels = column_of(adata, label_key, "label_key").astype(str).to_numpy()
        for y, (label, color) in enumerate(colors.items()):
            part = rates[(labels == label) & np.isfinite(rates)]
            if len(part):
                low, left, middle, right, high = np.quantile(part, (0.05, 0.25, 0.5, 0.75, 0.95))
                axes[1].plot([low, high], [y, y], color=color, lw=0.8)
                axes[1].plot([left, right], [y, y], color=color, lw=4, solid_capstyle="butt")
                axes[1].plot([middle], [y], "o", color="white", mec=color, ms=4)
        axes[1].axvline(0, color=_frame.DARK, lw=0.5, zorder=0)
        axes[1].locator_params(axis="x", nbins=4)
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[1].set_yticks(range(len(colors)), list(colors))
        axes[1].set_ylim(len(colors) - 0.5, -0.5)
        _frame.dress(axes[1], x=axis, y="")
    return axes


def uncertainty(
    adata: AnnData,
    *,
    basis: str | None = None,
    dims: tuple[int, int] = (0, 1),
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw how far the members of an ensemble are from each other over time, and at each cell.

    Of cells `adata` with ``uns["uncertainty"]``, as :func:`cellflow.tl.uncertainty` writes it.
    With a `basis`, an embedding, the disagreement about velocities at each cell is drawn as well,
    ``obs["velocity_uncertainty"]`` of :func:`cellflow.tl.velocity`, with `dims` and `size` as in
    :func:`trajectories`: on a second of the axes `ax`, which are returned, or in a new figure.
    """
    table = _cells.written(adata, "uns", "uncertainty", call="uncertainty(adata, ensemble)")
    numbers = None
    if basis is not None:
        call = "velocity(adata, ensemble)"
        values = _cells.written(adata, "obs", "velocity_uncertainty", call=call)
        of = np.asarray(values, dtype=float)
        numbers = _cells.Numbers("uncertainty", of, Normalize(0, 1), _frame.TIME_COLORS)
    axes = _frame.row_of_axes(ax, 1 if basis is None else 2, extent=(1.4, 1.0), height=2.4)
    first, unit = axes[0], adata.uns.get("uncertainty_fit", {}).get("unit", "")
    first.plot(table["time"], table["spread"], color=_frame.PALETTE[0], lw=1.2, marker="o", ms=2.5)
    first.set_ylim(bottom=0)
    _frame.dress(first, x=_frame.plural(unit), y="spread of members (data units)")
    if basis is not None and numbers is not None:
        _cells.draw_map(axes[1], adata, numbers, basis=basis, dims=dims, size=size)
    return axes
