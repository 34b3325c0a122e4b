"""Carry cells along the dynamics of a fit, from and to data coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.simulate import SOLVERS, StoredTrajectory, Trajectory, simulate

#: Steps of the Runge-Kutta solver from snapshot to snapshot. On fits of five time courses it left
#: relative errors of 3e-6 to 2e-4; five steps leave twice that, ten an eighth.
RK4_STEPS = 6
#: Steps of other fixed-step solvers.
STEPS_PER_INTERVAL = 10


def carry_cells(
    fit: Any,
    z: Tensor,
    times: Sequence[float],
    *,
    solver: str,
    generator: Rng,
    max_step: float | None,
    memory: float,
    store: str | Path | None,
    store_dtype: torch.dtype | str | None,
    progress: bool,
) -> Trajectory | StoredTrajectory:
    """Carry cells in model coordinates; their states are returned in those of the data.

    Steps are as long as the interval between snapshots that they are in says, so that an uneven
    course costs as many as an even one.

    Parameters
    ----------
    fit
        Whose dynamics carry them.
    z
        Cells at the first time, ``(n, k)``.
    times, solver, generator, max_step, memory, store, store_dtype, progress
        As in :meth:`Fit.simulate`.

    Returns
    -------
    The trajectory, in data coordinates.

    Warns
    -----
    UserWarning
        If a stochastic solver is asked for and the fit has no noise.
    """
    if solver in SOLVERS and SOLVERS[solver].stochastic and fit.dynamics.sigma == 0:
        warnings.warn(
            f"{fit.method.name!r} learned no noise: solver={solver!r} follows the mean flow, and "
            "every draw is the same. Take solver='rk4', or a method with a score such as 'sf2m'.",
            stacklevel=3,
        )
    return simulate(
        fit.dynamics,
        z,
        times,
        solver=solver,
        generator=generator,
        max_step=max_step,
        knots=fit.course.times,
        steps=RK4_STEPS if solver == "rk4" else STEPS_PER_INTERVAL,
        memory=memory,
        readout=None if fit.preprocessing is None else fit.preprocessing.invert,
        store=store,
        store_dtype=store_dtype,
        progress=progress,
    )


def times_of(time: float | ArrayLike, z: Tensor) -> Tensor:
    """Return one time, ``()``, or one for each of the cells `z`, ``(n,)``, beside these.

    Raises
    ------
    ValueError
        If the shape does not fit, or a time is not finite.
    TypeError
        If a time is not a number.
    """
    expected = f"a finite number, or one for each cell, shape ({len(z)},)"
    t = _checks.as_numbers(time, "time", expected)
    t = t.to(device=z.device, dtype=_checks.time_dtype(z.device))
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(z)):
        raise ValueError(_checks.message("time", f"shape {tuple(t.shape)}", expected))
    if not bool(torch.isfinite(t).all()):
        raise ValueError(_checks.message("time", "NaN or infinite times", expected))
    return t
