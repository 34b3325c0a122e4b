"""What :func:`cellflow.simulate.simulate` is given, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.chunks import Readout
from cellflow.simulate.inference import evaluated, is_small
from cellflow.simulate.job import Job
from cellflow.simulate.segments import cut_at_breaks
from cellflow.simulate.solvers import SOLVERS


def as_job(
    dynamics: Dynamics,
    grid: Tensor,
    x0: Tensor,
    *,
    solver: str,
    max_step: float | None,
    knots: Sequence[float],
    steps: int,
    rtol: float,
    atol: float,
    max_evaluations: int,
    generator: Rng,
    field_dtype: torch.dtype | None,
) -> Job:
    """Check what was asked for; the parameters are those of :func:`cellflow.simulate.simulate`."""
    adaptive = SOLVERS[solver].step is None
    if len(knots):
        knots = as_times(knots, "knots").sort().values.tolist()
    use = () if adaptive or max_step is not None else tuple(knots)
    segments, asked = cut_at_breaks(grid, dynamics.breaks, knots=use, device=x0.device)
    low = _low(field_dtype, x0)
    return Job(
        dynamics=dynamics if low else evaluated(dynamics, x0),
        solver=solver,
        segments=segments,
        asked=asked,
        max_step=_step_length(max_step),
        steps=_checks.count(steps, "steps"),
        rtol=_checks.number(rtol, "rtol", low=0.0, open_low=True),
        atol=_checks.number(atol, "atol", low=0.0, open_low=True),
        max_evaluations=_checks.count(max_evaluations, "max_evaluations"),
        seed=_seed(generator) if _is_noisy(dynamics, solver) else None,
        field_dtype=low,
        small=is_small(dynamics),
    )


def _low(dtype: torch.dtype | None, x0: Tensor) -> torch.dtype | None:
    """Return the type in which fields are evaluated, None for that of the cells."""
    if dtype is None or dtype == x0.dtype:
        return None
    known = (torch.bfloat16,) if x0.device.type == "cpu" else (torch.bfloat16, torch.float16)
    if dtype not in known or x0.dtype != torch.float32:
        got = f"{dtype} for cells of {x0.dtype} on {x0.device.type}"
        expected = f"{' or '.join(map(str, known))} for cells of torch.float32, or None"
        raise ValueError(_checks.message("field_dtype", got, expected))
    return dtype


def kept_of(readout: Readout, x0: Tensor) -> Tensor:
    """What `readout` makes of one cell, checked."""
    with torch.no_grad():
        kept = readout(x0[:1])
    if not isinstance(kept, torch.Tensor) or kept.ndim != 2 or len(kept) != 1:
        got = f"{tuple(kept.shape)}" if isinstance(kept, torch.Tensor) else type(kept).__name__
        raise ValueError(_checks.message("readout", got, "a tensor (1, k) of one cell"))
    return kept


def _is_noisy(dynamics: Dynamics, solver: str) -> bool:
    if not SOLVERS[solver].stochastic or dynamics.sigma == 0:
        return False
    if dynamics.score is None:
        expected = f"a score, which {solver!r} needs where sigma is positive"
        remedy = "Fit a method that learns the score, or solve the ODE with solver='rk4'."
        raise ValueError(_checks.message("dynamics.score", "None", expected, remedy))
    return True


def _seed(generator: Rng) -> int:
    rng = _checks.as_generator(generator)
    return int(torch.randint(_checks.MAX_SEED, (), generator=rng, device=rng.device))


def as_times(times: Sequence[float] | ArrayLike, name: str = "times") -> Tensor:
    """Return `times`, at least two and strictly monotone, as ``(T,)`` in float64."""
    expected = "strictly increasing or strictly decreasing times, shape (T,)"
    if isinstance(times, torch.Tensor):
        times = times.detach().cpu().numpy()
    try:
        grid = torch.from_numpy(np.array(times, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(_checks.message(name, type(times).__name__, expected)) from None
    if grid.ndim != 1:
        raise ValueError(_checks.message(name, f"shape {tuple(grid.shape)}", expected))
    if len(grid) < 2:
        remedy = "The first is the time of `x0`; add the times to simulate."
        raise ValueError(_checks.message(name, f"{len(grid)} times", "at least 2", remedy))
    if not bool(torch.isfinite(grid).all()):
        raise ValueError(_checks.message(name, "NaN or infinite times", expected))
    difference = grid.diff()
    same = difference == 0
    if bool(same.any()):
        got = f"time {float(grid[int(same.nonzero()[0])]):g} twice in a row"
        raise ValueError(_checks.message(name, got, expected, "Drop the repetition."))
    turn = difference.sign() != difference[0].sign()
    if bool(turn.any()):
        i = int(turn.nonzero()[0])
        got = f"a change of direction at time {float(grid[i]):g}"
        raise ValueError(_checks.message(name, got, expected, "Simulate each way in its turn."))
    return grid


def _step_length(max_step: float | None) -> float | None:
    if max_step is None:
        return None
    return _checks.number(max_step, "max_step", low=0.0, open_low=True)
