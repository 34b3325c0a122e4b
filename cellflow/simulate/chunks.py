"""Cells in chunks: as many as stay in the cache and in the budget, side by side where it pays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from cellflow._threads import one_thread
from cellflow._typing import Tensor
from cellflow.simulate.job import Job
from cellflow.simulate.noise import block_size

#: Cells integrated together by one thread of a CPU: hidden layers of 64 units then stay in its
#: cache, which is worth a third of the time, and calls of Python cost next to nothing.
CACHED = 4096
#: From states ``(m, d)`` to what is kept of them.
Readout = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chunks:
    """How cells are divided.

    Parameters
    ----------
    cells
        Cells of a chunk.
    workers
        Chunks integrated at a time, each on one thread.
    small
        Whether each is to stay on one thread.
    """

    cells: int
    workers: int
    small: bool


def divide(job: Job, state: Tensor, *, memory: float, row: int) -> Chunks:
    """Return how to divide the cells of `state` ``(n, d)``.

    Chunks depend neither on the number of cells nor on that of workers, so that results do not,
    to the last bit. On a CPU small networks share the threads of torch by whole chunks, anything
    else by its own operations; on an accelerator there is one chunk at a time.

    Parameters
    ----------
    job
        What is integrated.
    state
        All cells, with a column for log mass where the dynamics have growth.
    memory
        Bytes for all chunks at a time.
    row
        Bytes that are kept of one cell at one time.
    """
    # Stages and ends of a step; an adaptive solver keeps its nodes, some tens of them. The
    # field's activations cannot be known: a few hidden layers of 512 units are allowed for.
    copies = 100 if job.adaptive else 16
    width = state.shape[1]
    per_cell = (copies * width + 4 * 512) * state.element_size()
    per_cell += job.n_rows * width * state.element_size() + len(job.asked) * row
    small = state.device.type == "cpu" and job.small
    threads = torch.get_num_threads()
    cells = max(1, int(memory // per_cell))
    if state.device.type == "cpu":
        cells = min(cells, CACHED if small else CACHED * threads)
    block = block_size(state.device)
    if cells > block:  # numbers are drawn for whole blocks
        cells -= cells % block
    at_a_time = min(threads, int(memory // (per_cell * cells))) if small else 1
    return Chunks(cells, max(1, min(at_a_time, -(-len(state) // cells))), small)


def integrate_cells(
    job: Job,
    x0: Tensor,
    *,
    first: int = 0,
    chunks: Chunks,
    readout: Readout | None,
    out: Tensor,
    log_mass: Tensor | None,
    advance: Callable[[float], object],
) -> int:
    """Integrate cells chunk by chunk, and return how often the fields were asked.

    Parameters
    ----------
    job
        What to integrate.
    x0
        The cells, ``(n, d)``.
    first
        Number of the first of them among all cells.
    chunks
        From :func:`divide`.
    readout
        What to keep of states, or None for all.
    out
        Receives that, ``(T, n, k)``.
    log_mass
        Receives log masses, ``(T, n)``; None without growth.
    advance
        Called with the share of one chunk's work that is done.
    """

    def chunk(start: int) -> int:
        rows = slice(start, start + chunks.cells)
        masses = None if log_mass is None else log_mass[:, rows]
        with torch.no_grad():  # of each thread
            return _one(
                job,
                x0[rows],
                first + start,
                readout=readout,
                out=out[:, rows],
                log_mass=masses,
                advance=advance,
            )

    starts = range(0, len(x0), chunks.cells)
    with one_thread() if chunks.small else nullcontext():
        if chunks.workers == 1 or len(starts) == 1:
            return sum(map(chunk, starts))
        pool = ThreadPoolExecutor(chunks.workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            return sum(pool.map(chunk, starts))
        finally:  # after a failure or Ctrl-C, chunks that have not begun are left
            pool.shutdown(cancel_futures=True)


def _one(
    job: Job,
    x: Tensor,
    first: int,
    *,
    readout: Readout | None,
    out: Tensor,
    log_mass: Tensor | None,
    advance: Callable[[float], object],
) -> int:
    dim = x.shape[1]
    if log_mass is None and readout is None and len(job.asked) == job.n_rows:
        return job.integrate(x, first, out=out, advance=advance)
    state = torch.cat([x, x.new_zeros(len(x), job.n_columns)], dim=1)
    rows = state.new_empty(job.n_rows, *state.shape)
    n_evaluations = job.integrate(state, first, out=rows, advance=advance)
    if len(job.asked) < job.n_rows:
        rows = rows[job.asked.to(rows.device)]
    states = rows[..., :dim]
    if readout is not None:
        states = readout(states.reshape(-1, dim)).unflatten(0, (len(rows), len(x)))
    out.copy_(states)
    if log_mass is not None:
        log_mass.copy_(rows[..., dim])
    return n_evaluations
