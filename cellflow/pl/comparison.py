"""Where and when two conditions flow differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow.pl import _cells, _frame

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

    Dots below the dashed line, p = 0.05, are filled; the title says p of all times together.

    Parameters
    ----------
    adata
        Cells with the embedding, ``uns["comparison"]`` and ``obs["flow_difference"]``, as
        :func:`cellflow.tl.compare` writes them.
    basis, dims, size
        As in :func:`trajectories`.
    ax
        Where to draw: two axes, for the map and the p values, which are returned; a new figure when
        omitted.
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
