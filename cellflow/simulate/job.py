"""What is integrated, and how: the same for every chunk of cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.simulate.field import RescaledField
from cellflow.simulate.integrate.adaptive import integrate_adaptive
from cellflow.simulate.integrate.fixed import integrate_fixed
from cellflow.simulate.integrate.stochastic import integrate_stochastic
from cellflow.simulate.noise import Noise
from cellflow.simulate.segments import Segment
from cellflow.simulate.solvers import SOLVERS

#: Steps over the whole span unless `max_step` or `knots` say otherwise.
DEFAULT_STEPS = 32
#: The least of them between two breaks; and those from knot to knot.
SEGMENT_STEPS = 8
#: Steps beyond which a span is taken for a mistake.
MAX_STEPS = 100_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """A simulation but for its cells.

    Parameters
    ----------
    dynamics, solver, max_step, steps, rtol, atol, max_evaluations, field_dtype
        As in :func:`cellflow.simulate.simulate`, checked.
    segments
        Stretches of time, in the order of integration.
    asked
        Rows of the segments' outputs that were asked for, ``(T,)``.
    seed
        Seed of the noise; None where there is none.
    small
        Whether the fields are small networks, which threads cannot speed up.
    """

    dynamics: Dynamics
    solver: str
    segments: list[Segment]
    asked: Tensor
    max_step: float | None
    steps: int
    rtol: float
    atol: float
    max_evaluations: int
    seed: int | None
    field_dtype: torch.dtype | None
    small: bool = False

    def __post_init__(self) -> None:
        total = sum(self.n_steps(segment) for segment in self.segments)
        if total > MAX_STEPS:
            span = abs(sum(segment.span for segment in self.segments))
            longest = min(abs(s.span) / self.n_steps(s) for s in self.segments)
            step = self.max_step or longest
            got = f"{step:g}, so {total:.0g} steps over a span of {span:g}"
            expected = f"at most {MAX_STEPS} steps"
            raise ValueError(_checks.message("max_step", got, expected, "Shorten the span."))

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its steps."""
        return SOLVERS[self.solver].step is None

    @property
    def n_rows(self) -> int:
        """Rows that the segments write: the times asked for and the cuts."""
        return self.segments[-1].rows.stop

    @property
    def n_columns(self) -> int:
        """Columns of the state beside those of the cells: the log mass, or none."""
        return int(self.dynamics.growth is not None)

    def n_steps(self, segment: Segment) -> int:
        """Return the number of steps of a fixed-step solver through `segment`."""
        if self.max_step is not None:
            least, steps = 1, abs(segment.span) / self.max_step
        elif segment.interval is not None:
            least, steps = 1, self.steps * abs(segment.span) / segment.interval
        else:
            least, steps = SEGMENT_STEPS, DEFAULT_STEPS * segment.share
        # Ten steps of 0.1 make 1.0, whatever the last bit of the quotient says.
        return max(least, math.ceil(steps - 1e-9))

    def integrate(
        self, x: Tensor, first: int, *, out: Tensor, advance: Callable[[float], object]
    ) -> int:
        """Integrate some of the cells, and return how often the fields were asked.

        Parameters
        ----------
        x
            Their states, ``(n, d)``, with a column of zeros where the dynamics have growth.
        first
            Number of the first of them among all cells.
        out
            Receives the states, ``(n_rows, n, d)``, with log mass in the last column.
        advance
            Called with the fraction of the whole span that has passed since the last call.
        """
        dim = x.shape[1] - self.n_columns
        noise = None if self.seed is None else Noise(self.seed, first, x, dim=dim)
        n_evaluations = 0
        with self._precision(x.device):
            for segment in self.segments:
                rows = out[segment.rows]
                n_evaluations += self._through(segment, x, noise, out=rows, advance=advance)
                x = rows[-1]
        return n_evaluations

    def _through(
        self,
        segment: Segment,
        x: Tensor,
        noise: Noise | None,
        *,
        out: Tensor,
        advance: Callable[[float], object],
    ) -> int:
        solver, u = SOLVERS[self.solver], segment.u
        field = RescaledField(
            self.dynamics,
            segment.start,
            segment.span,
            max_evaluations=self.max_evaluations if self.adaptive else None,
            noisy=noise is not None,
            bounds=segment.bounds,
            check=self.adaptive,
            low=self.field_dtype is not None,
            on_advance=lambda amount: advance(amount * segment.share),
        )
        n = self.n_steps(segment)
        if noise is not None and solver.noisy_step is not None:
            step, mean = solver.noisy_step, solver.uses_mean
            integrate_stochastic(
                field, x, u=u, step=step, n_steps=n, noise=noise, mean=mean, out=out
            )
        elif solver.step is not None:
            integrate_fixed(field, x, u=u, step=solver.step, n_steps=n, out=out)
        else:
            integrate_adaptive(
                field, x, u=u, solver=self.solver, rtol=self.rtol, atol=self.atol, out=out
            )
        return field.n_evaluations

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.field_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.field_dtype)
