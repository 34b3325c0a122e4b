"""How to integrate, checked: everything but the dynamics, the cells and the times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cellflow import _checks
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.simulate.solver import SOLVERS

#: From states ``(m, d)`` to what is kept of them.
Readout = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How exact, how long and how large an integration may be.

    An adaptive solver has the tolerances `rtol` and `atol` on the root mean square error of a step,
    over cells and dimensions: a single odd cell among thousands may be less exact, and so may, by
    one or two digits, states between the steps. It may make `max_evaluations` for each chunk of
    cells, from break to break.

    The solver's working set has `memory` bytes; more cells than fit are integrated in chunks, at
    least one by one. The result itself, ``T * n * d`` numbers, comes on top, unless it goes to a
    store. On a CPU chunks have 4,096 cells at most, which the cache can hold; those of small
    networks are integrated side by side, one on each thread that torch may use. Chunks do not
    change the result of a fixed-step solver, beyond the last bits of matrix products; adaptive ones
    choose their steps for each chunk.
    """

    rtol: float = 1e-5
    atol: float = 1e-6
    max_evaluations: int = 10_000
    memory: float = 2**30

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "memory"):
            _checks.number(getattr(self, name), name, low=0.0, open_low=True)
        _checks.count(self.max_evaluations, "max_evaluations")


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is kept of the states, and where.

    A `readout`, a function from states ``(m, d)`` to what is kept of them, ``(m, k)``, such as the
    way back to the coordinates of the data, is applied chunk by chunk. With `store`, the folder of
    a zarr store, for results that exceed memory, some thousand cells at a time are integrated and
    written: a store that was interrupted is gone on with, one that is complete is opened, and one
    of another simulation is refused. Its numbers are of `store_dtype`, such as ``torch.float16``,
    whose relative error is 5e-4 at most.
    """

    readout: Readout | None = None
    store: str | Path | None = None
    store_dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        if self.store is None and self.store_dtype is not None:
            got, remedy = f"{self.store_dtype} without `store`", "Name the folder to write."
            raise ValueError(_checks.message("store_dtype", got, "both or neither", remedy))


@dataclass(frozen=True, kw_only=True)
class Integration:
    """Settings of :func:`cellflow.simulate.simulate`, with what a fit knows of the pace.

    Knots are increasing times, those of a fit's snapshots. Without `max_step`, a fixed-step solver
    takes its ``steps_per_interval`` from one to the next, and as long ones before the first and
    after the last. No step crosses a knot. The `clock` leads from the times asked for, which the
    trajectory keeps, to those of the dynamics, of the knots and of `max_step`.
    """

    solver: str = "rk4"
    max_step: float | None = None
    generator: Rng = 0
    limits: Limits = Limits()
    output: Output = Output()
    progress: bool = False
    knots: tuple[float, ...] = ()
    clock: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        _checks.choice(self.solver, SOLVERS, "solver")
        if self.max_step is not None:
            _checks.number(self.max_step, "max_step", low=0.0, open_low=True)
        if SOLVERS[self.solver].adaptive:
            unused = ["max_step"] * (self.max_step is not None)
            remedy = "It chooses its steps by `rtol` and `atol`."
        else:
            told = ("rtol", "atol", "max_evaluations")
            unused = [k for k in told if getattr(self.limits, k) != getattr(Limits, k)]
            remedy = "Its steps are those of `max_step`; solver='dopri5' has tolerances."
        if unused:
            text = f"solver={self.solver!r} takes no `{unused[0]}`, which is ignored. {remedy}"
            _checks.warn(text)


def as_times(times: Sequence[float] | ArrayLike) -> Tensor:
    """Return `times`, at least two and strictly monotone, as ``(T,)`` in float64."""
    name, expected = "times", "strictly increasing or strictly decreasing times, shape (T,)"
    grid = _checks.as_numbers(times, name, expected)
    grid = grid.detach().to("cpu", torch.float64, copy=True)
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
