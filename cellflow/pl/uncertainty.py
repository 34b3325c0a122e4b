"""When, and at which cells, the members of an ensemble disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from cellflow.pl import _cells, _frame


def uncertainty(
    adata: AnnData,
    *,
    basis: str | None = None,
    dims: tuple[int, int] = (0, 1),
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw how far the members of an ensemble are from each other over time, and at each cell.

    The dashed line is the time at which another sample would tell most.

    Parameters
    ----------
    adata
        Cells with ``uns["uncertainty"]``, as :func:`cellflow.tl.uncertainty` writes it; with a
        `basis` also ``obs["velocity_uncertainty"]``, of :func:`cellflow.tl.velocity`.
    basis
        An embedding, to draw the disagreement about velocities at each cell as well.
    dims, size
        As in :func:`trajectories`.
    ax
        Where to draw: one axes over time and, with a `basis`, one for the cells, which are
        returned; a new figure when omitted.
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
    if "sample_next" in adata.uns:
        at = float(adata.uns["sample_next"])
        first.axvline(at, color=_frame.DARK, lw=0.7, ls=(0, (3, 2)), zorder=0)
        first.set_title(f"sample next: {unit} {at:.3g}".replace(":  ", ": "), fontsize=_frame.FONT)
    first.set_ylim(bottom=0)
    _frame.dress(first, x=_frame.plural(unit), y="spread of members (data units)")
    if basis is not None and numbers is not None:
        _cells.draw_map(axes[1], adata, numbers, basis=basis, dims=dims, size=size)
    return axes
