"""Simulation of observed cells, forward or backward in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng
from cellflow.fits import Ensemble, Fit
from cellflow.simulate import StoredTrajectory, Trajectory
from cellflow.simulate.integration import as_times
from cellflow.tl._reading import states_and_times, time_of


def simulate(
    adata: AnnData,
    fit: Fit | Ensemble,
    *,
    start: float | str | None = None,
    end: float | str | None = None,
    times: Sequence[float] | None = None,
    cells: ArrayLike | None = None,
    n_cells: int | None = None,
    solver: str = "rk4",
    rng: Rng = 0,
    store: str | Path | None = None,
    store_dtype: str | None = None,
    progress: bool = False,
) -> Trajectory | StoredTrajectory:
    """Carry observed cells of one time point along the learned flow.

    Returns states ``(T, n, d)`` in the coordinates of the representation, and masses where the
    method learned growth. The AnnData is not changed. Of an ensemble, means over its members and
    their standard deviations (:class:`~cellflow.fits.EnsembleTrajectory`). With `store`, one that
    is read as it is asked for (:class:`~cellflow.simulate.StoredTrajectory`).

    Parameters
    ----------
    adata, fit
        Cells with the representation and the time column that the fit was made from, and the fit.
    start
        Time point whose cells to carry, a number in the fit's unit or a label; the first one when
        omitted.
    end, times
        Time to carry them to, likewise; the last one when omitted, and before `start` to go back. A
        grid of 50 times is returned. Or the `times` themselves, the first being `start`.
    cells
        Names of the cells, or a boolean mask over all cells; those not of `start` are an error.
        All cells of `start` when omitted. Cells without a time are of none.
    n_cells
        Draw this many of them at random.
    solver
        Of :func:`cellflow.simulate.simulate`: ``"rk4"`` follows the mean flow;
        ``"euler_maruyama"`` or ``"sra1"`` draw paths of a method that learned a score, such as
        ``"sf2m"``: possible futures, or backward in time possible ancestors.
    rng
        Seed or generator of that draw, and of a stochastic solver.
    store, store_dtype, progress
        Folder of a zarr store to write to, for trajectories that exceed memory, and the type of its
        numbers, ``"float16"``, ``"float32"`` or ``"float64"``; that of the fit when omitted. A
        store that was interrupted is gone on with, if everything else is the same. And whether to
        show a bar.
    """
    _, cell_times, x = states_and_times(adata, fit)
    if times is None:
        first = fit.course.times[0] if start is None else time_of(fit, start, "start")
        last = fit.course.times[-1] if end is None else time_of(fit, end, "end")
        grid = np.linspace(first, last, 50).tolist()
    elif start is not None or end is not None:
        raise ValueError(_checks.message("times", "times besides start or end", "one of the two"))
    else:
        grid = as_times(times).tolist()
    rows = _rows(adata, cell_times, grid[0], cells)
    rng = _checks.as_generator(rng, "rng")
    if n_cells is not None:
        keep = torch.randperm(len(rows), generator=rng)
        rows = rows[keep[: _checks.count(n_cells, "n_cells")].numpy()]
    x0 = torch.from_numpy(x[rows, : fit.course.dim])
    how: dict[str, Any] = {"solver": solver, "generator": rng, "progress": progress}
    if not isinstance(fit, Ensemble):
        return fit.simulate(x0, grid, store=store, store_dtype=store_dtype, **how)
    if store is not None or store_dtype is not None:
        name = "store" if store is not None else "store_dtype"
        remedy = "Write those of `fit.members` one by one."
        raise ValueError(_checks.message(name, "an ensemble", "a fit", remedy))
    return fit.simulate(x0, grid, **how)


def _rows(
    adata: AnnData, cell_times: np.ndarray, start: float, cells: ArrayLike | None
) -> np.ndarray:
    """Rows of the chosen cells, all observed at `start`."""
    if cells is None:
        rows = np.flatnonzero(cell_times == start)
        if len(rows) == 0:
            known = ", ".join(f"{t:g}" for t in np.unique(cell_times) if np.isfinite(t))
            raise ValueError(_checks.message("start", f"{start:g}", f"an observed time: {known}"))
        return rows
    is_tensor = isinstance(cells, torch.Tensor)
    chosen = np.asarray(_checks.as_numbers(cells, "cells") if is_tensor else cells)
    if chosen.ndim != 1:
        expected = "names of cells, or a boolean for each of them"
        raise ValueError(_checks.message("cells", type(cells).__name__, expected))
    if chosen.dtype == bool:
        if chosen.shape != (adata.n_obs,):
            raise ValueError(_checks.message("cells", f"shape {chosen.shape}", f"({adata.n_obs},)"))
        rows = np.flatnonzero(chosen)
    else:
        if not adata.obs_names.is_unique:
            remedy = "Call adata.obs_names_make_unique(), or pass a boolean mask."
            got = "names, but adata.obs_names repeats some"
            raise ValueError(_checks.message("cells", got, "unique names", remedy))
        rows = adata.obs_names.get_indexer(chosen.astype(str))
        if (rows < 0).any():
            name = chosen[rows < 0][0]
            raise ValueError(_checks.message("cells", repr(str(name)), "names in adata.obs_names"))
    other = cell_times[rows] != start
    if other.any() or len(rows) == 0:
        got = f"{int(other.sum())} of {len(rows)} cells observed at another time than {start:g}"
        raise ValueError(_checks.message("cells", got, "cells of the first time", "Set `start`."))
    return rows
