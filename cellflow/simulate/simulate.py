"""Simulate dynamics: the states and masses of cells at a number of times."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import psutil
import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.integration import Integration, Limits, Output, Readout, as_times
from cellflow.simulate.job import Job, divide, integrate_cells
from cellflow.simulate.trajectory import Trajectory
from cellflow.simulate.zarr_store import (
    StoredTrajectory,
    as_store_dtype,
    open_trajectory,
    write_cells,
)

#: Fraction of the memory that is left that a result may take.
MEMORY_SHARE = 0.8


def simulate(
    dynamics: Dynamics,
    x0: ArrayLike,
    times: Sequence[float] | ArrayLike,
    *,
    solver: str = "rk4",
    max_step: float | None = None,
    generator: Rng = 0,
    limits: Limits = Limits(),
    output: Output = Output(),
    progress: bool = False,
) -> Trajectory | StoredTrajectory:
    r"""Simulate `dynamics`: as an ODE, or with a stochastic solver as an SDE.

    The ODE is that of the probability flow, :math:`dx = v(t, x)\,dt`. The SDE is
    :math:`dX = (v + \tfrac12 \sigma^2 s)\,dt + \sigma\,dW` where times increase, and where they
    decrease :math:`dX = (v - \tfrac12 \sigma^2 s)\,dt + \sigma\,d\bar W` (Anderson 1982), which
    draws ancestors: both have the marginals of the ODE. Where the dynamics have growth,
    :math:`d \log m = g\,dt` is carried along. No gradients are recorded. States
    ``(T, n, d)`` are in the dtype and on the device of `x0`, or read from the store.

    Output times cost nothing beyond writing them: solvers choose their steps by `max_step` or by
    the tolerances, and states between the steps are interpolated (at least to fourth order) or,
    under noise, drawn from the Brownian bridge through the steps. So a state does not depend on
    which other times are asked for; under noise, one between two steps does, but not its law.

    No step crosses one of ``dynamics.breaks``: the span is integrated from break to break, with
    the fields asked strictly between them.

    Parameters
    ----------
    dynamics, x0
        Its fields are called with a scalar time and ``(n, d)`` cells, those at the first time, in
        whose dtype they answer.
    times
        At least two times in the user's unit, strictly increasing, or strictly decreasing to
        integrate backward.
    solver
        For the ODE, fixed-step ``"euler"``, ``"midpoint"`` or ``"rk4"``, which do not judge their
        own accuracy (halve `max_step` to see it), or adaptive ``"dopri5"``. For
        the SDE, fixed-step ``"euler_maruyama"`` (strong order 1) or ``"sra1"`` (1.5); where
        sigma is zero there is no noise to draw, and these solve the ODE.
    max_step
        Longest step of a fixed-step solver in units of time. When omitted a 32nd of the span, and
        between two breaks at most an 8th of the time between them.
    generator
        Seed or generator of the noise: one number is drawn from it. The noise of a cell follows
        from that number and from the cell's position in `x0`, for one device and dtype.
    limits, output, progress
        Tolerances of an adaptive solver, and bounds on evaluations and memory: `Limits`. What is
        kept of the states, and where; all of them in memory by default: `Output`. And whether to
        show a bar.

    Raises
    ------
    IntegrationError
        If the solution or the field is not finite, or an adaptive solver needs more evaluations
        than its limit.

    Examples
    --------
    >>> import torch
    >>> from cellflow.dynamics import Dynamics
    >>> decay = Dynamics(velocity=lambda t, x: -x)
    >>> simulate(decay, torch.ones(3, 2), [0, 1]).final[0]
    tensor([0.3679, 0.3679])
    """
    how = Integration(
        solver=solver,
        max_step=max_step,
        generator=generator,
        limits=limits,
        output=output,
        progress=progress,
    )
    return simulate_as(dynamics, x0, times, how=how)


def simulate_as(
    dynamics: Dynamics, x0: ArrayLike, times: Sequence[float] | ArrayLike, *, how: Integration
) -> Trajectory | StoredTrajectory:
    """Simulate `dynamics` from cells `x0` ``(n, d)`` through `times`, with the settings `how`."""
    x0, times = _checks.as_cells(x0, "x0").detach(), as_times(times)
    output = how.output
    job = Job.prepare(dynamics, x0, how.clock(times) if how.clock else times, how=how)
    like = x0[:1] if output.readout is None else _read_out(output.readout, x0[:1])
    n, mass_bytes = len(x0), job.n_columns * x0.element_size()
    if output.store is not None:
        like = like.to(as_store_dtype(output.store_dtype, like.dtype))
        row = like.shape[1] * x0.element_size() + mass_bytes
        chunks = divide(job, x0, memory=how.limits.memory / 2, row=row)
        with _progress(math.ceil(n / chunks.cells), show=how.progress) as advance:
            write_cells(job, x0, times=times, chunks=chunks, like=like, advance=advance)
        return open_trajectory(output.store)
    width, row = like.shape[1], like.shape[1] * like.element_size()
    what = f"{len(times):,} times of {n:,} cells in {width} dimensions"
    _require_free_memory(len(times) * n * (row + mass_bytes), what, x0.device)
    out = like.new_empty(len(times), n, width)
    log_mass = x0.new_empty(len(times), n) if job.n_columns else None
    chunks = divide(job, x0, memory=how.limits.memory, row=0 if output.readout is None else row)
    with _progress(math.ceil(n / chunks.cells), show=how.progress) as advance:
        n_evaluations = integrate_cells(
            job, x0, chunks=chunks, out=out, log_mass=log_mass, advance=advance
        )
    return Trajectory(times, out, log_mass, n_evaluations, how.solver)


def _read_out(readout: Readout, x: Tensor) -> Tensor:
    """Return what `readout` keeps of one cell `x` ``(1, d)``, checked."""
    with torch.no_grad():
        kept = readout(x)
    if not isinstance(kept, torch.Tensor) or kept.ndim != 2 or len(kept) != 1:
        got = f"{tuple(kept.shape)}" if isinstance(kept, torch.Tensor) else type(kept).__name__
        raise ValueError(_checks.message("readout", got, "a tensor (1, k) of one cell"))
    return kept


def _require_free_memory(size: int, what: str, device: torch.device) -> None:
    """Raise ValueError if a result of `size` bytes would take most of the memory that is left."""
    if device.type == "cuda":
        left = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        left = psutil.virtual_memory().available
    else:
        return
    if size > MEMORY_SHARE * left:
        got = f"{what}: {size / 2**30:,.3g} GiB in memory"
        share = f"{MEMORY_SHARE:.0%} of what is left"
        expected = f"at most {MEMORY_SHARE * left / 2**30:,.3g} GiB, {share}"
        remedy = "Pass store='trajectories.zarr' to write them to disk, or ask for fewer times."
        raise ValueError(_checks.message("times", got, expected, remedy))


@contextlib.contextmanager
def _progress(chunks: int, *, show: bool) -> Iterator[Callable[[float], object]]:
    """Give a function that is told which share of one of the `chunks` is done."""
    if not show:
        yield lambda amount: None
        return
    from tqdm.auto import tqdm  # only where asked for

    layout = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=float(chunks), desc="simulate", bar_format=layout) as bar:
        yield bar.update
