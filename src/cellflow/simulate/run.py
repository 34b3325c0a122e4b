"""The one verb of this package."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate import euler, midpoint, rk4
from cellflow.simulate.adaptive import integrate_adaptive
from cellflow.simulate.field import RescaledField
from cellflow.simulate.fixed import Step, integrate_fixed
from cellflow.simulate.trajectory import Trajectory


@dataclass(frozen=True)
class Solver:
    """An entry of the table of solvers.

    Parameters
    ----------
    order
        Order of convergence.
    step
        The step of a fixed-step solver; None for those that torchdyn runs.
    """

    order: int
    step: Step | None = None


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler.ORDER, euler.euler),
    "midpoint": Solver(midpoint.ORDER, midpoint.midpoint),
    "rk4": Solver(rk4.ORDER, rk4.rk4),
    "dopri5": Solver(5),
    "tsit5": Solver(5),
}

#: Steps over the whole span unless `max_step` says otherwise.
DEFAULT_STEPS = 32
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
    progress: bool = False,
) -> Trajectory:
    r"""Integrate the probability-flow ODE of `dynamics`, :math:`dx = v(t, x)\,dt`.

    Output times cost nothing beyond writing them: solvers choose their steps by `max_step` or by
    the tolerances, and states between the steps are interpolated (at least to fourth order). So
    a state does not depend on which other times are asked for. Where the dynamics have growth,
    :math:`d \log m = g\,dt` is carried along. No gradients are recorded.

    Parameters
    ----------
    dynamics
        Its velocity is called with a scalar time and ``(n, d)`` cells, in the dtype of `x0`.
    x0
        Cells at the first time, ``(n, d)``.
    times
        At least two times in the user's unit, strictly increasing, or strictly decreasing to
        integrate backward.
    solver
        Fixed-step ``"euler"``, ``"midpoint"`` or ``"rk4"``, which do not judge their own accuracy
        (halve `max_step` to see it), or adaptive ``"dopri5"`` or ``"tsit5"``.
    max_step
        Longest step of a fixed-step solver in units of time; a 32nd of the span when omitted.
    rtol, atol
        Tolerances of an adaptive solver on the root mean square error of a step, over cells and
        dimensions: a single odd cell among thousands may be less exact, and so may, by one or
        two digits, states between the steps.
    max_evaluations
        Evaluations allowed to an adaptive solver for each chunk of cells.
    memory
        Bytes for the solver's working set; more cells than fit are integrated in chunks, at
        least one by one. The result itself, ``T * n * d`` numbers, comes on top. Chunks do not
        change the result of a fixed-step solver; adaptive ones choose their steps for each chunk.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Trajectory
        States ``(T, n, d)``, in the dtype and on the device of `x0`.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the field answers in another shape or dtype.
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
    x0 = _checks.as_cells(x0, "x0")
    grid = as_times(times)
    start, span = float(grid[0]), float(grid[-1] - grid[0])
    n_steps = _number_of_steps(max_step, span)
    rtol = _checks.number(rtol, "rtol", low=0.0, open_low=True)
    atol = _checks.number(atol, "atol", low=0.0, open_low=True)
    max_evaluations = _checks.count(max_evaluations, "max_evaluations")
    memory = _checks.number(memory, "memory", low=0.0, open_low=True)

    state = x0.detach()
    if dynamics.growth is not None:
        state = torch.cat([state, state.new_zeros(len(state), 1)], dim=1)
    out = state.new_empty(len(grid), *state.shape)
    u = (grid - start) / span
    step = SOLVERS[name].step
    chunk = _cells_per_chunk(state, memory, adaptive=step is None)
    n_evaluations = 0
    with torch.no_grad(), _progress(math.ceil(len(state) / chunk), show=progress) as advance:
        for part_state, part_out in zip(state.split(chunk), out.split(chunk, dim=1), strict=True):
            field = RescaledField(
                dynamics,
                start,
                span,
                max_evaluations=max_evaluations if step is None else None,
                check=step is None,
                on_advance=advance,
            )
            if step is None:
                integrate_adaptive(
                    field, part_state, u=u, solver=name, rtol=rtol, atol=atol, out=part_out
                )
            else:
                integrate_fixed(field, part_state, u=u, step=step, n_steps=n_steps, out=part_out)
            n_evaluations += field.n_evaluations
    dim = x0.shape[1]
    log_mass = out[..., dim] if dynamics.growth is not None else None
    return Trajectory(grid, out[..., :dim], log_mass, n_evaluations, name)


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


def _number_of_steps(max_step: float | None, span: float) -> int:
    if max_step is None:
        return DEFAULT_STEPS
    step = _checks.number(max_step, "max_step", low=0.0, open_low=True)
    # Ten steps of 0.1 make 1.0, whatever the last bit of the quotient says.
    steps = abs(span) / step
    if steps > MAX_STEPS:
        got = f"{step:g}, so {steps:.0g} steps over a span of {abs(span):g}"
        raise ValueError(
            _checks.message("max_step", got, f"at most {MAX_STEPS} steps", "Shorten the span.")
        )
    return max(1, math.ceil(steps - 1e-9))


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
