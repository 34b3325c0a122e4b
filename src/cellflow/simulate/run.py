"""The one verb of this package."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.adaptive import integrate_adaptive
from cellflow.simulate.field import RescaledField
from cellflow.simulate.fixed import integrate_fixed
from cellflow.simulate.noise import Noise
from cellflow.simulate.segments import Segment, cut_at_breaks
from cellflow.simulate.solvers import SOLVERS
from cellflow.simulate.stochastic import integrate_stochastic
from cellflow.simulate.trajectory import Trajectory

#: Steps over the whole span unless `max_step` says otherwise.
DEFAULT_STEPS = 32
#: The least of them between two breaks.
SEGMENT_STEPS = 8
#: Steps beyond which a span is taken for a mistake.
MAX_STEPS = 100_000


def simulate(
    dynamics: Dynamics,
    x0: ArrayLike,
    times: Sequence[float] | ArrayLike,
    *,
    solver: str = "rk4",
    max_step: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    max_evaluations: int = 10_000,
    memory: float = 2**30,
    generator: Rng = 0,
    progress: bool = False,
) -> Trajectory:
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
        the SDE, fixed-step ``"euler_maruyama"`` (strong order 1) or ``"sra1"`` (1.5).
    max_step
        Longest step of a fixed-step solver in units of time. When omitted a 32nd of the span,
        and between two breaks at most an 8th of the time between them.
    rtol, atol
        Tolerances of an adaptive solver on the root mean square error of a step, over cells and
        dimensions: a single odd cell among thousands may be less exact, and so may, by one or
        two digits, states between the steps.
    max_evaluations
        Evaluations allowed to an adaptive solver for each chunk of cells, from break to break.
    memory
        Bytes for the solver's working set; more cells than fit are integrated in chunks, at
        least one by one. The result itself, ``T * n * d`` numbers, comes on top. Chunks do not
        change the result of a fixed-step solver; adaptive ones choose their steps for each chunk.
    generator
        Seed or generator of the noise: one number is drawn from it. The noise of a cell follows
        from that number and from the cell's position in `x0`, for one device and dtype.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Trajectory
        States ``(T, n, d)``, in the dtype and on the device of `x0`.

    Raises
    ------
    ValueError
        If an argument is out of its range, the field answers in another shape or dtype, or a
        stochastic solver is asked for and the dynamics have noise but no score.
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
    name = _checks.choice(solver, SOLVERS, "solver")
    noisy = _is_noisy(dynamics, name)
    x0 = _checks.as_cells(x0, "x0")
    grid = as_times(times)
    job = _Job(
        dynamics=dynamics,
        solver=name,
        max_step=_step_length(max_step, float(grid[-1] - grid[0])),
        rtol=_checks.number(rtol, "rtol", low=0.0, open_low=True),
        atol=_checks.number(atol, "atol", low=0.0, open_low=True),
        max_evaluations=_checks.count(max_evaluations, "max_evaluations"),
        seed=_seed(generator) if noisy else 0,
    )
    memory = _checks.number(memory, "memory", low=0.0, open_low=True)

    segments, asked = cut_at_breaks(grid, dynamics.breaks, device=x0.device)
    state, dim = x0.detach(), x0.shape[1]
    if dynamics.growth is not None:
        state = torch.cat([state, state.new_zeros(len(state), 1)], dim=1)
    out = state.new_empty(segments[-1].rows.stop, *state.shape)
    chunk = _cells_per_chunk(state, memory, adaptive=SOLVERS[name].step is None)
    n_evaluations = 0
    with torch.no_grad(), _progress(math.ceil(len(state) / chunk), show=progress) as advance:
        for first in range(0, len(state), chunk):
            part = state[first : first + chunk]
            noise = Noise(job.seed, first, part, dim=dim) if noisy else None
            for segment in segments:
                rows = out[segment.rows, first : first + chunk]
                n_evaluations += _integrate(
                    job, segment, part, noise=noise, out=rows, advance=advance
                )
                part = rows[-1]
    if len(asked) < len(out):
        out = out[asked.to(out.device)]
    log_mass = out[..., dim] if dynamics.growth is not None else None
    return Trajectory(grid, out[..., :dim], log_mass, n_evaluations, name)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is the same for all chunks and segments."""

    dynamics: Dynamics
    solver: str
    max_step: float | None
    rtol: float
    atol: float
    max_evaluations: int
    seed: int


def _integrate(
    job: _Job,
    segment: Segment,
    x: Tensor,
    *,
    noise: Noise | None,
    out: Tensor,
    advance: Callable[[float], object],
) -> int:
    solver = SOLVERS[job.solver]
    adaptive = solver.step is None
    field = RescaledField(
        job.dynamics,
        segment.start,
        segment.span,
        max_evaluations=job.max_evaluations if adaptive else None,
        noisy=noise is not None,
        bounds=segment.bounds,
        check=adaptive,
        on_advance=lambda amount: advance(amount * segment.share),
    )
    n_steps = _number_of_steps(job.max_step, segment)
    if noise is not None and solver.noisy_step is not None:
        integrate_stochastic(
            field, x, u=segment.u, step=solver.noisy_step, n_steps=n_steps, noise=noise, out=out
        )
    elif solver.step is not None:
        integrate_fixed(field, x, u=segment.u, step=solver.step, n_steps=n_steps, out=out)
    else:
        integrate_adaptive(
            field, x, u=segment.u, solver=job.solver, rtol=job.rtol, atol=job.atol, out=out
        )
    return field.n_evaluations


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


def as_times(times: Sequence[float] | ArrayLike) -> Tensor:
    """Return `times`, at least two and strictly monotone, as ``(T,)`` in float64."""
    expected = "strictly increasing or strictly decreasing times, shape (T,)"
    if isinstance(times, torch.Tensor):
        times = times.detach().cpu().numpy()
    try:
        grid = torch.from_numpy(np.array(times, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(_checks.message("times", type(times).__name__, expected)) from None
    if grid.ndim != 1:
        raise ValueError(_checks.message("times", f"shape {tuple(grid.shape)}", expected))
    if len(grid) < 2:
        remedy = "The first is the time of `x0`; add the times to simulate."
        raise ValueError(_checks.message("times", f"{len(grid)} times", "at least 2", remedy))
    if not bool(torch.isfinite(grid).all()):
        raise ValueError(_checks.message("times", "NaN or infinite times", expected))
    difference = grid.diff()
    same = difference == 0
    if bool(same.any()):
        got = f"time {float(grid[int(same.nonzero()[0])]):g} twice in a row"
        raise ValueError(_checks.message("times", got, expected, "Drop the repetition."))
    turn = difference.sign() != difference[0].sign()
    if bool(turn.any()):
        i = int(turn.nonzero()[0])
        got = f"a change of direction at time {float(grid[i]):g}"
        raise ValueError(_checks.message("times", got, expected, "Simulate each way in its turn."))
    return grid


def _step_length(max_step: float | None, span: float) -> float | None:
    if max_step is None:
        return None
    step = _checks.number(max_step, "max_step", low=0.0, open_low=True)
    steps = abs(span) / step
    if steps > MAX_STEPS:
        got = f"{step:g}, so {steps:.0g} steps over a span of {abs(span):g}"
        raise ValueError(
            _checks.message("max_step", got, f"at most {MAX_STEPS} steps", "Shorten the span.")
        )
    return step


def _number_of_steps(max_step: float | None, segment: Segment) -> int:
    steps = DEFAULT_STEPS * segment.share if max_step is None else abs(segment.span) / max_step
    # Ten steps of 0.1 make 1.0, whatever the last bit of the quotient says.
    return max(SEGMENT_STEPS if max_step is None else 1, math.ceil(steps - 1e-9))


def _cells_per_chunk(state: Tensor, memory: float, *, adaptive: bool) -> int:
    # Stages and ends of a step; an adaptive solver keeps its nodes, some tens of them. The
    # field's activations cannot be known: a few hidden layers of 512 units are allowed for.
    copies = 100 if adaptive else 16
    per_cell = (copies * state.shape[1] + 4 * 512) * state.element_size()
    return min(len(state), max(1, int(memory // per_cell)))


@contextlib.contextmanager
def _progress(chunks: int, *, show: bool) -> Iterator[Callable[[float], object]]:
    if not show:
        yield lambda amount: None
        return
    from tqdm import tqdm  # only where asked for

    layout = "{l_bar}{bar}| {elapsed}<{remaining}"
    with tqdm(total=float(chunks), desc="simulate", bar_format=layout) as bar:
        yield bar.update
