"""What fitting returns: learned dynamics, in the user's units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from cellflow import _checks
from cellflow._html import shown
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.clock import Clock
from cellflow.conditions import Condition
from cellflow.dynamics import Dynamics
from cellflow.fits.asked import read_times, required, strength
from cellflow.fits.bases import Encoded, gaussian_mixture
from cellflow.fits.evidence import evidence
from cellflow.fits.folder import save_fit
from cellflow.fits.populations import (
    equal_cells,
    grown_mass,
    sample_cells,
    sides_of,
    warn_of_extrapolation,
    warn_of_no_noise,
)
from cellflow.fits.report import coupling_report, fit_report, fit_rows
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import (
    SOLVERS,
    Density,
    Likelihood,
    Limits,
    Output,
    StoredTrajectory,
    Trajectory,
    log_likelihood,
)
from cellflow.simulate.integration import Integration, as_times
from cellflow.simulate.simulate import simulate_as
from cellflow.snapshot import Snapshot, joined
from cellflow.timecourse import TimeCourse
from cellflow.training.networks import FittedMethod, given
from cellflow.training.trainer import History


@shown(lambda fit: fit_rows(fit.method.name, fit.course, fit.history))
@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted dynamics and everything needed to use them without the data's file.

    Parameters
    ----------
    dynamics
        Learned dynamics, in model coordinates and the clock's time.
    method
        The method that was fitted.
    course
        The cells it was fitted to, in data coordinates.
    networks
        The networks that the dynamics are made of, by what they answer.
    preprocessing
        From data to model coordinates; None where they are the same.
    history
        What happened during training.
    origin
        Where the cells came from (keys of the AnnData, labels of time), for the doors.
    clock
        From the user's time, in which every answer is, to that of the dynamics; None for the same.
    """

    dynamics: Dynamics = field(repr=False)
    method: FittedMethod
    course: TimeCourse
    networks: nn.ModuleDict = field(repr=False)
    preprocessing: Preprocessing | None = None
    history: History = field(default_factory=History, repr=False)
    origin: dict[str, Any] = field(default_factory=dict)
    clock: Clock | None = None

    @property
    def health(self) -> str:
        """How coupling went: one line when it is good, and what to do when it is not."""
        return coupling_report(self.history.coupling)

    @property
    def summary(self) -> str:
        """Steps, where the time went, :attr:`health`, and :attr:`evidence` below 1."""
        return fit_report(self.method.name, self.history, self.evidence)

    @cached_property
    def evidence(self) -> float:
        """How far conditions differ by more than chance, 0 to 1: :func:`cellflow.fits.evidence`.

        It is 1 where training dropped no labels: nothing was learned of all conditions together.
        """
        course, prep = self.course, self.preprocessing
        if not self.method.parts.training.label_dropout:
            return 1.0
        return evidence(course if prep is None else course.map(prep.apply))

    def given(self, condition: Condition, *, guidance: float | None = None) -> Fit:
        """Return the fit of one `condition`, whose every answer is for that one.

        Its course is :meth:`cellflow.TimeCourse.under` it; of a condition that no cell was under,
        it is the control's first snapshot and what becomes of its cells. With a `guidance` w, each
        field is that of all conditions together and w times what this one changes (:cite:`ho2022`,
        eq. 6): 1 for what was learned, more to exaggerate it, 0 for what a fit without one says. A
        network learns chance too: w is the :attr:`evidence` when omitted, with a warning at 0.
        """
        known = self.course.conditions
        if known is None:
            got, remedy = repr(condition), "Fit with a `condition_key`."
            raise ValueError(_checks.message("condition", got, "none: the fit has none", remedy))
        context, w = known.context(condition), strength(guidance, lambda: self.evidence)
        bound = replace(self, dynamics=given(self.dynamics, context, w))
        if self.course.saw(condition):
            return replace(bound, course=self.course.under(condition))
        start = self.course.start_of(condition)
        if start is None:
            got, remedy = repr(known.text(condition)), "Fit with a `control`, whose cells it takes."
            raise ValueError(_checks.message("condition", got, "one that cells had", remedy))
        later = (bound.predict(start, t) for t in self.course.times if t > start.time)
        return replace(bound, course=TimeCourse((start, *later), self.course.unit))

    def velocity(self, time: float | ArrayLike, x: ArrayLike) -> Tensor:
        """Velocity of cells `x` ``(n, d)`` at `time`, ``(n, d)`` in data units per unit of time.

        One time, or one for each cell; cells in data coordinates, here and in the methods below.
        """
        t, z, rate = self.encoded(time, x)
        with torch.no_grad():
            v = self.dynamics.velocity(t, z) * rate[..., None].to(z)
        return v if self.preprocessing is None else self.preprocessing.invert_vectors(v)

    def score(self, time: float | ArrayLike, x: ArrayLike) -> Tensor:
        """Score of the population at cells `x` and `time`, shape ``(n, d)``; an error without one.

        It is the gradient of the log density, per unit of the data; where the method worked on
        fewer components than the data have, the gradient along these.
        """
        score = required(self.dynamics.score, "score", of=(self.method.name, "SF2M()"))
        t, z, _ = self.encoded(time, x)
        with torch.no_grad():
            s = score(t, z)
        return s if self.preprocessing is None else self.preprocessing.invert_gradients(s)

    def growth(self, time: float | ArrayLike, x: ArrayLike) -> Tensor:
        """Growth rate of cells `x` at `time`, ``(n,)``: births less deaths, per unit of time."""
        growth = required(self.dynamics.growth, "growth", of=(self.method.name, "UOTCFM()"))
        t, z, rate = self.encoded(time, x)
        with torch.no_grad():
            return growth(t, z) * rate.to(z)

    def simulate(
        self,
        x0: ArrayLike,
        times: Sequence[float] | ArrayLike,
        *,
        solver: str = "rk4",
        generator: Rng = 0,
        max_step: float | None = None,
        limits: Limits = Limits(),
        store: str | FilePath | None = None,
        store_dtype: torch.dtype | str | None = None,
        progress: bool = False,
    ) -> Trajectory | StoredTrajectory:
        """Simulate cells along the learned dynamics, in data coordinates.

        Parameters
        ----------
        x0
            Cells in data coordinates at the first time, shape ``(n, d)``.
        times
            At least two times, strictly increasing, or decreasing to go back.
        solver
            See :func:`cellflow.simulate.simulate`: a stochastic one, such as
            ``"euler_maruyama"``, draws paths where the method learned a score (backward in time,
            ancestors); the others follow the mean flow, which has the same marginals.
        generator
            Seed or generator of a stochastic solver.
        max_step
            Longest step of a fixed-step solver. When omitted, six (``"rk4"``) or ten of them
            lead from snapshot to snapshot, so that an uneven course costs as many as an even one.
        limits
            Tolerances of an adaptive solver, and bounds on evaluations and memory.
        store, store_dtype
            Folder of a zarr store to write to, for trajectories that exceed memory, and its type:
            see :class:`cellflow.simulate.Output`.
        progress
            Whether to show a progress bar.

        Raises
        ------
        IntegrationError
            If the solution is not finite, or an adaptive solver needs more evaluations
            than its limit.
        """
        times, clock = as_times(times), self.clock
        if clock is not None and max_step is not None:
            max_step = _checks.number(max_step, "max_step", low=0.0, open_low=True)
            max_step *= clock.slowest(float(times[0]), float(times[-1]))
        readout = None if self.preprocessing is None else self.preprocessing.invert
        how = Integration(
            solver=solver,
            generator=generator,
            max_step=max_step,
            limits=limits,
            output=Output(readout=readout, store=store, store_dtype=store_dtype),
            progress=progress,
            knots=self._knots,
            clock=clock,
        )
        if SOLVERS[solver].stochastic and not self.dynamics.sigma:
            warn_of_no_noise(self.method.name, solver, score=self.dynamics.score is not None)
        warn_of_extrapolation(self.course, times[[0, -1]])
        return simulate_as(self.dynamics, self._encode(x0), times, how=how)

    def interpolate(
        self,
        time: float,
        *,
        n_cells: int | None = None,
        weighted: bool = True,
        solver: str = "rk4",
        generator: Rng = 0,
    ) -> Snapshot:
        """Cells of the population at any time.

        The cells of the last snapshot before `time` are simulated forward to it (before the first
        snapshot, its cells are simulated back). Where the method says ``both_sides`` and `time` is
        inside the course, those of the next snapshot are simulated back as well; a fraction s of
        the way on, cells of the earlier one count for ``1 - s``, of the later one for ``s``, so
        that a snapshot of few cells tells little. Cells have the data's dtype, and the labels and
        masses that they started with, grown where the method learned growth. However many are
        drawn, together they start with the mass of the snapshot.

        Parameters
        ----------
        time
            Time asked for; beyond the course it is an extrapolation.
        n_cells
            How many cells to return. Up to the size of a snapshot they are drawn without
            replacement; beyond, cells are drawn again and start from the path's noise around
            them. Where the path has no noise at its ends (SB-CFM's bridges, or ``sigma=0``),
            these are exact repetitions. All of them, once, when omitted.
        weighted
            Whether cells carry their masses. If not, `n_cells` of them (as many as the earlier
            snapshot has) are drawn in proportion to mass and each has the same.
        solver, generator
            As in :meth:`simulate`; the generator also chooses the cells.
        """
        time, rng = _checks.number(time, "time"), _checks.as_generator(generator)
        out: list[Snapshot] = []
        size = None if n_cells is None else _checks.count(n_cells, "n_cells")
        sides = sides_of(self.course, time, self.method.both_sides)
        for k, (start, share) in enumerate(sides):
            if size is not None and weighted:
                number = size if len(sides) == 1 else round(size * share)
                number = size - len(out[0]) if k and out else number
                if number == 0:
                    continue
                parts = self.method.parts.path, self.preprocessing
                start = sample_cells(start, *parts, n_cells=number, generator=rng)
            at = start.time == time
            there = start if at else self.predict(start, time, solver=solver, generator=rng)
            out.append(there if share == 1 else replace(there, mass=there.mass * share))
        cells = joined(out)
        number = len(sides[0][0]) if size is None else size
        return cells if weighted else equal_cells([cells], number, rng)[0]

    def predict(
        self,
        start: Snapshot,
        time: float,
        *,
        solver: str = "rk4",
        generator: Rng = 0,
        max_step: float | None = None,
    ) -> Snapshot:
        """Predict the cells of the snapshot `start` at another `time`, with masses and labels.

        By the `solver`, `generator` and `max_step` of :meth:`simulate`, in data coordinates.
        """
        how: dict[str, Any] = {"solver": solver, "generator": generator, "max_step": max_step}
        out = self.simulate(start.x, [start.time, time], **how)
        grown = out.log_mass
        mass = start.mass if grown is None else grown_mass(start.mass, grown[-1], time)
        return Snapshot(out.final.to(start.x), time, mass, start.labels)

    def log_prob(
        self,
        x: ArrayLike,
        time: float,
        *,
        base: Density | None = None,
        probes: int | None = None,
        generator: Rng = 0,
    ) -> Tensor:
        """Log-density of the population at cells `x` ``(n, d)`` and `time`: ``(n,)``.

        With the `base`, `probes` and `generator` of :meth:`likelihood`, whose `log_prob` it is.
        """
        return self.likelihood(x, time, base=base, probes=probes, generator=generator).log_prob

    def likelihood(
        self,
        x: ArrayLike,
        time: float,
        *,
        base: Density | None = None,
        base_time: float | None = None,
        probes: int | None = None,
        generator: Rng = 0,
        solver: str = "rk4",
    ) -> Likelihood:
        """Log-density of the population at cells, in data units, with its standard error.

        Cells go along the flow to the time of the base: :func:`cellflow.simulate.log_likelihood`.
        Where the method worked on fewer components than the data have, there is no density in all
        of them: it is that of the projection onto these, whose gradient is :meth:`score`. Where it
        learned growth, the density at each time is divided by the population's total, as the
        cells of the base's snapshot have grown to it.

        Parameters
        ----------
        x
            Cells in data coordinates, ``(n, d)``.
        time
            Their time; beyond the course it is an extrapolation.
        base
            Anything with ``log_prob(x)``, in data coordinates (an error where the method worked on
            fewer components). When omitted, what the method itself begins from (``"cnf"``), or a
            mixture of normal laws, chosen by BIC, of the population at `base_time`.
        base_time
            Time of the base; of the first snapshot when omitted.
        probes, generator
            Of the divergence: see :func:`cellflow.simulate.log_likelihood`.
        solver
            As in :meth:`simulate`.
        """
        time, prep, z = _checks.number(time, "time"), self.preprocessing, self._encode(x)
        warn_of_extrapolation(self.course, torch.tensor([time], dtype=torch.float64))
        start = prior = None
        if base is None and base_time is None:
            course = self.course if prep is None else self.course.map(prep.apply)
            prior = self.method.parts.prior(course)
        if prior is not None:
            base, base_time = prior
        else:
            base_time = self.course.times[0] if base_time is None else base_time
            start = self.interpolate(base_time)
            if base is None:
                base = gaussian_mixture(replace(start, x=self._encode(start.x)))
            elif prep is not None and isinstance(base, Density):
                base = Encoded(base, prep)
        how = Integration(solver=solver, knots=self._knots, clock=self.clock)
        asked: dict[str, Any] = {"base": base, "base_time": base_time, "probes": probes}
        found = log_likelihood(self.dynamics, z, time, generator=generator, how=how, **asked)
        log_prob, cells = found.log_prob, found.base_cells
        if prep is not None:
            log_prob, cells = log_prob - prep.log_scale, prep.invert(cells)
        if self.dynamics.growth is not None and start is not None and time != base_time:
            grown = self.predict(start, time).total_mass / start.total_mass
            log_prob = log_prob - math.log(grown)
        return replace(found, log_prob=log_prob, base_cells=cells)

    def save(self, folder: str | FilePath) -> FilePath:
        """Write the fit to `folder`, whole or not at all; :func:`cellflow.load` reads it.

        The folder is new, empty, or that of an earlier fit, which is replaced.
        """
        return save_fit(self, folder)

    def encoded(self, time: float | ArrayLike, x: ArrayLike) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the dynamics are asked for `time`, ``()`` or ``(n,)``, and cells `x`.

        Times of the dynamics, cells in model coordinates ``(n, k)``, and the rate of the clock,
        of the shape of the times: a velocity of the dynamics, times it, is per unit of time.
        """
        z = self._encode(x)
        t = read_times(time, z, self.course)
        if self.clock is None:
            return t, z, torch.ones_like(t)
        return self.clock(t).to(t), z, self.clock.rate(t).to(t)

    @property
    def _knots(self) -> tuple[float, ...]:
        """Times of the snapshots, by the clock."""
        return (self.course if self.clock is None else self.clock.retime(self.course)).times

    def _encode(self, x: ArrayLike) -> Tensor:
        cells = _checks.as_cells(x, "x", dim=self.course.dim).to(next(self.networks.parameters()))
        return cells if self.preprocessing is None else self.preprocessing.apply(cells)
