"""Choose cells of a snapshot, as many as are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.timecourse import Snapshot


def draw_cells(fit: Any, start: Snapshot, *, n_cells: int, generator: torch.Generator) -> Snapshot:
    """Draw cells, each once; beyond the size of the snapshot, again with the path's noise.

    Parameters
    ----------
    fit
        Its method's path has the noise, its preprocessing the coordinates of it.
    start
        Cells to draw from.
    n_cells
        How many.
    generator
        Decides which.

    Returns
    -------
    The cells with their labels, and with their masses scaled so that they stand for the whole
    snapshot.

    Raises
    ------
    ValueError
        If more cells are asked for than there are and the path was not saved with the fit.
    """
    n, path, prep = len(start), fit.method.parts.path, fit.preprocessing
    order = torch.randperm(n, generator=generator)[:n_cells]
    again = torch.randint(n, (max(n_cells - n, 0),), generator=generator)
    drawn = start.subset(torch.cat([order, again]).to(start.x.device))
    if n_cells != n:
        whole = start.total_mass / drawn.total_mass
        drawn = replace(drawn, mass=(drawn.mass.double() * whole).to(drawn.mass))
    if len(again) == 0:
        return drawn
    if not hasattr(path, "std_at_start"):
        remedy = "The path is the user's own and was not saved: its noise is not known."
        raise ValueError(_checks.message("n_cells", n_cells, f"at most {n}", remedy))
    dim = start.x.shape[1] if prep is None else len(prep.scale)
    noise = path.std_at_start() * torch.randn(len(again), dim, generator=generator)
    noise = noise.to(drawn.x)
    if prep is not None:
        noise = prep.invert_vectors(noise)
    return replace(drawn, x=torch.cat([drawn.x[:n], drawn.x[n:] + noise]))


def grown_mass(mass: Tensor, growth: Tensor, time: float) -> Tensor:
    """Return masses that have grown.

    Parameters
    ----------
    mass
        Masses at the start, shape ``(n,)``.
    growth
        Change of their logarithms, shape ``(n,)``.
    time
        By when.

    Raises
    ------
    ValueError
        If one of them grows or shrinks beyond what numbers can hold.
    """
    growth = growth.to(mass)
    out = mass * growth.exp()
    if not bool(torch.isfinite(out).all() and (out > 0).all()):
        factors = f"exp({growth.min():.3g}) to exp({growth.max():.3g})"
        got = f"{time:g}, by when masses have grown by factors of {factors}"
        expected = f"a time by which {mass.dtype} can hold them"
        raise ValueError(_checks.message("time", got, expected, "Stay near the course."))
    return out
