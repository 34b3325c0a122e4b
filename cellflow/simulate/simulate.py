"""The one verb of this package."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.arguments import as_job, as_times, kept_of
from cellflow.simulate.chunks import Readout, divide, integrate_cells
from cellflow.simulate.job import SEGMENT_STEPS, Job
from cellflow.simulate.room import require_room
from cellflow.simulate.solvers import SOLVERS
from cellflow.simulate.store import as_store_dtype, write_cells
from cellflow.simulate.stored import StoredTrajectory, open_trajectory
from cellflow.simulate.trajectory import Trajectory


def simulate(
    dynamics: Dynamics,
    x0: ArrayLike,
    times: Sequence[float] | ArrayLike,
    *,
    solver: str = "rk4",
    max_step: float | None = None,
    knots: Sequence[float] = (),
    steps: int = SEGMENT_STEPS,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_evaluations: int = 10_000,
    memory: float = 2**30,
    generator: Rng = 0,
    field_dtype: torch.dtype | None = None,
    readout: Readout | None = None,
    store: str | Path | None = None,
    store_dtype: torch.dtype | str | None = None,
    progress: bool = False,
) -> Trajectory | StoredTrajectory:
    r"""Simulate `dynamics`: as an ODE, or with a stochastic solver as an SDE.

    The ODE is that of the probability flow, :math:`dx = v(t, x)\,dt`. The SDE is
    :math:`dX = (v + \tfrac12 \sigma^2 s)\,dt + \sigma\,dW` where times increase, and where they
    decrease :math:`dX = (v - \tfrac12 \sigma^2 s)\,dt + \sigma\,d\bar W` (Anderson 1982), which
    draws ancestors: both have the marginals of the ODE. Where the dynamics have growth,
    :math:`d \log m = g\,dt` is carried along. No gradients are recorded.

    Output times cost nothing beyond writing them: solvers choose their steps by `max_step` or by
    the tolerances, and states between the steps are interpolated (at least to fourth order) or,
    under noise, drawn from the Brownian bridge through the steps. So a state does not depend on
    which other times are asked for; under noise, one between two steps does, but not its law.

    No step crosses one of ``dynamics.breaks``: the span is integrated from break to break, with
    the fields asked strictly between them.

    Parameters
    ----------
    dynamics
        Its fields are called with a scalar time and ``(n, d)`` cells, in the dtype of `x0`.
    x0
        Cells at the first time, ``(n, d)``.
    times
        At least two times in the user's unit, strictly increasing, or strictly decreasing to
        integrate backward.
    solver
        For the ODE, fixed-step ``"euler"``, ``"midpoint"`` or ``"rk4"``, which do not judge their
        own accuracy (halve `max_step` to see it), or adaptive ``"dopri5"`` or ``"tsit5"``. For
        the SDE, fixed-step ``"euler_maruyama"`` (strong order 1) or ``"sra1"`` (1.5); where
        sigma is zero there is no noise to draw, and these solve the ODE.
    max_step
        Longest step of a fixed-step solver in units of time. When omitted a 32nd of the span,
        and between two breaks at most an 8th of the time between them; or as `knots` say.
    knots
        Times, increasing, between which the pace of things differs, such as those of snapshots.
        Without `max_step`, a fixed-step solver takes `steps` steps from one to the next, and as
        long ones before the first and after the last. No step crosses a knot.
    steps
        That number.
    rtol, atol
        Tolerances of an adaptive solver on the root mean square error of a step, over cells and
        dimensions: a single odd cell among thousands may be less exact, and so may, by one or
        two digits, states between the steps.
    max_evaluations
        Evaluations allowed to an adaptive solver for each chunk of cells, from break to break.
    memory
        Bytes for the solver's working set; more cells than fit are integrated in chunks, at
        least one by one. The result itself, ``T * n * d`` numbers, comes on top, unless it goes
        to `store`. On a CPU chunks have 4,096 cells at most, which the cache can hold; those of
        small networks are integrated side by side, one on each thread that torch may use. Chunks
        do not change the result of a fixed-step solver, beyond the last bits of matrix products;
        adaptive ones choose their steps for each chunk.
    generator
        Seed or generator of the noise: one number is drawn from it. The noise of a cell follows
        from that number and from the cell's position in `x0`, for one device and dtype.
    field_dtype
        ``torch.bfloat16``, or on an accelerator ``torch.float16``, lets networks compute in half
        precision (autocast), with states and sums in float32: an error of about 0.4 % of the
        velocity. See the page of benchmarks for what it gains.
    readout
        Function from states ``(m, d)`` to what is kept of them, ``(m, k)``, such as the way back
        to the coordinates of the data; applied chunk by chunk.
    store
        Folder of a zarr store to write to, for results that exceed memory: some thousand cells
        at a time are integrated and written. A store that was interrupted is gone on with, one
        that is complete is opened, and one of another simulation is refused.
    store_dtype
        Of the stored states, such as ``torch.float16``, whose relative error is 5e-4 at most.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Trajectory
        States ``(T, n, d)``, in the dtype and on the device of `x0`; with `store` a
        :class:`StoredTrajectory`, whose states are read as they are asked for.

    Raises
    ------
    ValueError
        If an argument is out of its range, the field answers in another shape or dtype, a
        stochastic solver is asked for and the dynamics have noise but no score, the result
        would exceed the memory that is left, or `store` holds something else.
    ImportError
        If `store` is given and zarr is not installed.
    IntegrationError
        If the solution or the field is not finite, or an adaptive solver needs more than
        `max_evaluations`.

    Examples
    --------
    >>> import torch
    >>> from cellflow.dynamics import Dynamics
    >>> decay = Dynamics(velocity=lambda t, x: -x)
    >>> simulate(decay, torch.ones(3, 2), [0, 1]).final[0]
    tensor([0.3679, 0.3679])
    """
    x0, grid = _checks.as_cells(x0, "x0").detach(), as_times(times)
    job = as_job(
        dynamics,
        grid,
        x0,
        solver=_checks.choice(solver, SOLVERS, "solver"),
        max_step=max_step,
        knots=knots,
        steps=steps,
        rtol=rtol,
        atol=atol,
        max_evaluations=max_evaluations,
        generator=generator,
        field_dtype=field_dtype,
    )
    memory = _checks.number(memory, "memory", low=0.0, open_low=True)
    like = x0[:1] if readout is None else kept_of(readout, x0)
    if store is None:
        if store_dtype is not None:
            got, remedy = f"{store_dtype} without `store`", "Name the folder to write."
            raise ValueError(_checks.message("store_dtype", got, "both or neither", remedy))
        return _in_memory(job, x0, grid, memory=memory, readout=readout, like=like, show=progress)
    like = like.to(as_store_dtype(store_dtype, like.dtype))
    row = (like.shape[1] + job.n_columns) * x0.element_size()
    chunks = divide(job, _with_masses(job, x0), memory=memory / 2, row=row)
    with _progress(math.ceil(len(x0) / chunks.cells), show=progress) as advance:
        write_cells(
            job,
            x0,
            times=grid,
            path=Path(store),
            chunks=chunks,
            memory=memory / 2,
            readout=readout,
            like=like,
            advance=advance,
        )
    return open_trajectory(store)


def _in_memory(
    job: Job,
    x0: Tensor,
    grid: Tensor,
    *,
    memory: float,
    readout: Readout | None,
    like: Tensor,
    show: bool,
) -> Trajectory:
    n, width = len(x0), like.shape[1]
    size = len(grid) * n * (width * like.element_size() + job.n_columns * x0.element_size())
    require_room(
        size, f"{len(grid):,} times of {n:,} cells in {width} dimensions", device=x0.device
    )
    out = like.new_empty(len(grid), n, width)
    log_mass = x0.new_empty(len(grid), n) if job.n_columns else None
    row = 0 if readout is None else width * like.element_size()
    chunks = divide(job, _with_masses(job, x0), memory=memory, row=row)
    with _progress(math.ceil(n / chunks.cells), show=show) as advance:
        n_evaluations = integrate_cells(
            job, x0, chunks=chunks, readout=readout, out=out, log_mass=log_mass, advance=advance
        )
    return Trajectory(grid, out, log_mass, n_evaluations, job.solver)


def _with_masses(job: Job, x0: Tensor) -> Tensor:
    """Stand-in, without memory, for the states with their log masses."""
    return x0.new_empty(1, 1).expand(len(x0), x0.shape[1] + job.n_columns)


@contextlib.contextmanager
def _progress(chunks: int, *, show: bool) -> Iterator[Callable[[float], object]]:
    if not show:
        yield lambda amount: None
        return
    from tqdm import tqdm  # only where asked for

    layout = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=float(chunks), desc="simulate", bar_format=layout) as bar:
        yield bar.update
