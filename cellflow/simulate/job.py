"""Job: dynamics, settings and stretches of time; it integrates cells, chunk by chunk."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch

from cellflow import _checks
from cellflow._threads import one_thread
from cellflow._typing import Field, Tensor
from cellflow.dynamics import ComposedField, Dynamics
from cellflow.networks.network import GivenField, Network
from cellflow.simulate.field import RescaledField
from cellflow.simulate.integrate import integrate_adaptive, integrate_fixed, integrate_stochastic
from cellflow.simulate.integration import Integration
from cellflow.simulate.noise import Noise, block_size
from cellflow.simulate.solver import SOLVERS, Solver

#: Fields that say how they are evaluated.
OURS = Network | GivenField
#: Steps over the whole span unless `max_step` or `knots` say otherwise, the least of them between
#: two breaks, and those beyond which a span is taken for a mistake.
DEFAULT_STEPS, SEGMENT_STEPS, MAX_STEPS = 32, 8, 100_000
#: Cells integrated together by one thread of a CPU: hidden layers of 64 units then stay in its
#: cache, which is worth a third of the time, and calls of Python cost next to nothing.
CACHED = 4096


@dataclass(frozen=True, eq=False)
class Segment:
    """Stretch of time in which the fields are smooth.

    It begins at `start`, has the signed length `span` (in the user's unit) and is a `share` of the
    whole span. It writes the `rows` of the outputs, both ends included, at the positions `u` from 0
    to 1 (in float64). Fields may be asked between the two `bounds`, None for no bounds. The time
    between the two knots around it is `interval`, None without knots.
    """

    start: float
    span: float
    share: float
    rows: slice
    u: Tensor
    bounds: tuple[float, float] | None
    interval: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """Simulation but for its cells: `dynamics` (with evaluators for networks), settings `how`.

    It goes through the `segments` in turn, which write `n_rows` outputs: the times asked for, whose
    rows are `asked` ``(T,)``, and the cuts. The noise follows from `seed`, None where there is
    none. Beside the columns of the cells, the state has `n_columns`: that of the log mass, or none.
    A `small` job has fields of small networks only, which threads cannot speed up.
    """

    dynamics: Dynamics
    how: Integration
    solver: Solver
    segments: list[Segment]
    n_rows: int
    asked: Tensor
    seed: int | None
    n_columns: int
    small: bool

    @classmethod
    def prepare(cls, dynamics: Dynamics, x0: Tensor, times: Tensor, *, how: Integration) -> Job:
        """Return the job of integrating cells like `x0` through `times`."""
        solver = SOLVERS[how.solver]
        knots = () if solver.adaptive or how.max_step is not None else how.knots
        segments, asked = cut_at_breaks(times, dynamics.breaks, knots=knots, device=x0.device)
        fields = [f for f in (dynamics.velocity, dynamics.score, dynamics.growth) if f is not None]
        job = cls(
            dynamics=dynamics.map(lambda f: f.evaluator(x0) if isinstance(f, OURS) else f),
            how=how,
            solver=solver,
            segments=segments,
            n_rows=segments[-1].rows.stop,
            asked=asked,
            seed=_seed(dynamics, how) if solver.stochastic and dynamics.sigma else None,
            n_columns=int(dynamics.growth is not None),
            small=all(map(_is_small, fields)),
        )
        steps = [job.n_steps(segment) for segment in segments]
        if sum(steps) > MAX_STEPS:
            span = abs(sum(segment.span for segment in segments))
            longest = min(abs(s.span) / n for s, n in zip(segments, steps, strict=True))
            got = f"{how.max_step or longest:g}, so {sum(steps):.0g} steps over a span of {span:g}"
            expected = f"at most {MAX_STEPS} steps"
            raise ValueError(_checks.message("max_step", got, expected, "Shorten the span."))
        return job

    def n_steps(self, segment: Segment) -> int:
        """Return the number of steps of a fixed-step solver through `segment`."""
        if self.how.max_step is not None:
            least, steps = 1, abs(segment.span) / self.how.max_step
        elif segment.interval is not None:
            least, steps = 1, self.solver.steps_per_interval * abs(segment.span) / segment.interval
        else:
            least, steps = SEGMENT_STEPS, DEFAULT_STEPS * segment.share
        # Ten steps of 0.1 make 1.0, whatever the last bit of the quotient says.
        return max(least, math.ceil(min(steps, 1e300) - 1e-9))

    def integrate(
        self, x: Tensor, first: int, *, out: Tensor, advance: Callable[[float], object]
    ) -> int:
        """Integrate some of the cells, and return how often the fields were asked.

        Their states `x` ``(n, d)`` have a column of zeros where the dynamics have growth; `first`
        is the number of the first of them among all cells. `out` ``(n_rows, n, d)`` receives the
        states, and `advance` the fraction of the whole span that has passed since the last call.
        """
        solver, how = self.solver, self.how
        dim = x.shape[1] - self.n_columns
        noise = None if self.seed is None else Noise(self.seed, first, x, dim=dim)
        n_evaluations = 0
        for segment in self.segments:
            rows, u, n = out[segment.rows], segment.u, self.n_steps(segment)

            def passed(amount: float, share: float = segment.share) -> None:
                advance(amount * share)

            field = RescaledField(
                self.dynamics,
                segment.start,
                segment.span,
                max_evaluations=how.limits.max_evaluations if solver.adaptive else None,
                noisy=noise is not None,
                bounds=segment.bounds,
                on_advance=passed,
            )
            if noise is not None and solver.noisy_step is not None:
                step, mean = solver.noisy_step, solver.uses_mean
                integrate_stochastic(
                    field, x, u=u, step=step, n_steps=n, noise=noise, mean=mean, out=rows
                )
            elif solver.step is not None:
                integrate_fixed(field, x, u=u, step=solver.step, n_steps=n, out=rows)
            elif solver.pair is not None:
                integrate_adaptive(field, x, u=u, pair=solver.pair, limits=how.limits, out=rows)
            n_evaluations += field.n_evaluations
            x = rows[-1]
        return n_evaluations


def cut_at_breaks(
    grid: Tensor, breaks: tuple[float, ...], *, knots: tuple[float, ...] = (), device: torch.device
) -> tuple[list[Segment], Tensor]:
    """Cut the span of `grid` ``(T,)`` at those of `breaks` and `knots` that are inside it.

    Returns the segments in the order of `grid`, and the rows of their outputs (the times of `grid`
    and the cuts) that are times of `grid`, ``(T,)``. Times on `device` may be of a lower
    precision. The fields of a segment are asked strictly inside it, a billionth of its length from
    its ends: what a field says at the very time of a jump belongs to one side only. Without breaks
    there is one segment, and no bounds.
    """
    span = float(grid[-1] - grid[0])
    eps = torch.finfo(_checks.time_dtype(device)).eps
    # Times that differ by no more than this were meant to be the same (0.1 + 0.2 and 0.3).
    slack = max(1e-12 * abs(span), 4 * eps * float(grid.abs().max()))
    times = grid.tolist()
    cuts = {times[0], times[-1]}
    for time in sorted({*breaks, *knots}):
        if min(cuts) < time < max(cuts):
            nearest = float(grid[(grid - time).abs().argmin()])
            cuts.add(nearest if abs(nearest - time) <= slack else time)
    backward = span < 0
    rows = sorted({*times, *cuts}, reverse=backward)
    place = {time: row for row, time in enumerate(rows)}
    every = torch.tensor(rows, dtype=torch.float64)
    segments = []
    for here, there in pairwise(sorted(cuts, reverse=backward)):
        length = there - here
        bounds = None
        if breaks:
            inset = min(max(1e-9 * abs(length), 2 * slack), abs(length) / 4)
            bounds = min(here, there) + inset, max(here, there) - inset
        part = slice(place[here], place[there] + 1)
        u = (every[part] - here) / length
        interval = None
        if knots:  # the time between the two around the middle, or nearest to it
            i = min(max(bisect(knots, (here + there) / 2), 1), len(knots) - 1)
            interval = knots[i] - knots[i - 1]
        segments.append(Segment(here, length, length / span, part, u, bounds, interval))
    return segments, torch.tensor([place[time] for time in times])


def _seed(dynamics: Dynamics, how: Integration) -> int:
    """Return the seed of the noise."""
    if dynamics.score is None:
        expected = f"a score, which {how.solver!r} needs where sigma is positive"
        remedy = "Fit a method that learns the score, or solve the ODE with solver='rk4'."
        raise ValueError(_checks.message("dynamics.score", "None", expected, remedy))
    rng = _checks.as_generator(how.generator)
    return int(torch.randint(_checks.MAX_SEED, (), generator=rng, device=rng.device))


def _is_small(field: Field) -> bool:
    """Whether `field` consists of small networks, which threads cannot speed up."""
    if isinstance(field, ComposedField):
        return all(map(_is_small, field.parts))
    return isinstance(field, OURS) and field.small


# --- chunks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunks:
    """How cells are divided: `cells` a chunk, `workers` chunks at a time, each on one thread."""

    cells: int
    workers: int


def divide(job: Job, x0: Tensor, *, memory: float, row: int) -> Chunks:
    """Return how to divide the cells `x0` ``(n, d)``, of each of which `row` bytes a time are kept.

    Chunks depend neither on the number of cells nor on that of workers, so that results do not,
    to the last bit. On a CPU small networks share the threads of torch by whole chunks, anything
    else by its own operations; on an accelerator there is one chunk at a time.
    """
    # Stages and ends of a step. The field's activations cannot be known: a few hidden layers of
    # 512 units are allowed for.
    width, cpu = x0.shape[1] + job.n_columns, x0.device.type == "cpu"
    per_cell = (16 * width + 4 * 512) * x0.element_size()
    per_cell += job.n_rows * width * x0.element_size() + len(job.asked) * row
    small = cpu and job.small
    threads = torch.get_num_threads()
    cells = max(1, int(memory // per_cell))
    if cpu:
        cells = min(cells, CACHED if small else CACHED * threads)
    block = block_size(x0.device)
    if cells > block:  # numbers are drawn for whole blocks
        cells -= cells % block
    at_a_time = min(threads, int(memory // (per_cell * cells))) if small else 1
    return Chunks(cells, max(1, min(at_a_time, -(-len(x0) // cells))))


def integrate_cells(
    job: Job,
    x0: Tensor,
    *,
    chunks: Chunks,
    out: Tensor,
    log_mass: Tensor | None,
    advance: Callable[[float], object],
    first: int = 0,
) -> int:
    """Integrate cells chunk by chunk, and return how often the fields were asked.

    `first` is the number of the first of `x0` ``(n, d)`` among all cells. `out` ``(T, n, k)``
    receives the states or what the readout keeps of them, and `log_mass` ``(T, n)``, None without
    growth, the log masses. `advance` is told the share of one chunk's work that is done.
    """
    dim, readout, n_rows = x0.shape[1], job.how.output.readout, job.n_rows
    direct = log_mass is None and readout is None and len(job.asked) == n_rows

    @torch.no_grad()  # of each thread
    def chunk(start: int) -> int:
        cells = slice(start, start + chunks.cells)
        x = x0[cells]
        if direct:
            return job.integrate(x, first + start, out=out[:, cells], advance=advance)
        state = torch.cat([x, x.new_zeros(len(x), job.n_columns)], dim=1)
        rows = state.new_empty(n_rows, *state.shape)
        n_evaluations = job.integrate(state, first + start, out=rows, advance=advance)
        if len(job.asked) < n_rows:
            rows = rows[job.asked.to(rows.device)]
        states = rows[..., :dim]
        if readout is not None:
            states = readout(states.reshape(-1, dim)).unflatten(0, (len(rows), len(x)))
        out[:, cells] = states
        if log_mass is not None:
            log_mass[:, cells] = rows[..., dim]
        return n_evaluations

    starts = range(0, len(x0), chunks.cells)
    with one_thread() if job.small and x0.device.type == "cpu" else nullcontext():
        if chunks.workers == 1 or len(starts) == 1:
            return sum(map(chunk, starts))
        pool = ThreadPoolExecutor(chunks.workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            return sum(pool.map(chunk, starts))
        finally:  # after a failure or Ctrl-C, chunks that have not begun are left
            pool.shutdown(cancel_futures=True)
