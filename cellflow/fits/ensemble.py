"""Several fits of one method to one course: answers with a mean and a spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import torch

from cellflow import _checks
from cellflow._html import shown
from cellflow._random import draw_seed
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.conditions import Condition
from cellflow.fits.asked import strength
from cellflow.fits.fit import Fit
from cellflow.fits.folder import save_ensemble
from cellflow.fits.populations import equal_cells, sides_of
from cellflow.fits.report import coupling_problems, fit_rows
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density, Limits, Trajectory
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.networks import FittedMethod
from cellflow.training.trainer import History


@dataclass(frozen=True, eq=False)
class Spread:
    """The same answer by every member: `members`, of shape ``(members, ...)``."""

    members: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over members, of the shape of one answer."""
        return self.members.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over members, of the shape of one answer."""
        return self.members.std(0)


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleTrajectory(Trajectory):
    """Trajectory of the mean over members, and their spread.

    Fields are those of :class:`Trajectory` (`times`, `x`, `log_mass`, `n_evaluations`, `solver`).
    Standard deviations over members are `std` ``(T, n, d)`` of the states and `log_mass_std` ``(T,
    n)`` of the log masses, None without growth.
    """

    std: Tensor
    log_mass_std: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Cells of the population at one time, as each member predicts them.

    Row i of all `members`, a snapshot each, started as the same cell.
    """

    members: tuple[Snapshot, ...]

    @property
    def states(self) -> Spread:
        """Where the members predict each cell, shape ``(members, n, d)``."""
        return Spread(torch.stack([s.x for s in self.members]))

    @property
    def pooled(self) -> Snapshot:
        """The prediction as one population: the cells of all members in turn.

        Their mean would place a cell of uncertain fate between fates, where there is no cell.
        Each member has an equal part of the mass.
        """
        first, n = self.members[0], len(self.members)
        labels = None if first.labels is None else [v for s in self.members for v in s.labels or ()]
        mass = torch.cat([s.mass for s in self.members]) / n
        return Snapshot(torch.cat([s.x for s in self.members]), first.time, mass, labels)


class Moments:
    """Mean and standard deviation of tensors that come one by one (Welford 1962)."""

    def __init__(self) -> None:
        self.n = 0

    def add(self, value: Tensor) -> None:
        """Take another `value` in."""
        self.n += 1
        if self.n == 1:
            self.mean, self._squares = value.clone(), torch.zeros_like(value)
            return
        off = value - self.mean
        self.mean += off / self.n
        self._squares += off * (value - self.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation so far."""
        return (self._squares / (self.n - 1)).sqrt()


def _rows(ensemble: Ensemble) -> list[tuple[str, str]]:
    """Names and values by which an ensemble is printed."""
    seeds = ", ".join(map(str, ensemble.seeds))
    drawn = ", each on cells drawn with replacement" if ensemble.bootstrap else ""
    first = fit_rows(ensemble.method.name, ensemble.course, ensemble.history[0])
    count = ("members", f"{len(ensemble)}, of seeds {seeds}{drawn}")
    return [count, *first[:-1], ("coupling", ensemble.health)]


@shown(_rows)
@dataclass(frozen=True, eq=False)
class Ensemble:
    """Fits of one method to one course, which answer as a fit does, with their spread.

    The spread covers what a seed decides: initial weights, which cells are coupled and met
    where, the noise of a path. Where members were fitted to resampled cells (`bootstrap`), it
    covers the sampling of the cells as well, as far as the cells that were observed tell. It does
    not cover what all members share: method, sigma, coordinates. Differences between them are
    therefore a lower bound of the uncertainty.

    The `members` are fits of the same course, ``method.fit(course, generator=seeds[k])`` is member
    `k` for the seed of each in `seeds`, and `bootstrap` says whether each was trained on
    :func:`~cellflow.several.members.resampled` cells.
    """

    members: tuple[Fit, ...]
    seeds: tuple[int, ...]
    bootstrap: bool = False

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len(self.members) != len(self.seeds):
            got = f"{len(self.members)} fits and {len(self.seeds)} seeds"
            raise ValueError(_checks.message("members", got, "two or more, and a seed for each"))
        _checks.distinct(self.seeds, "seeds")

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.members)

    def __iter__(self) -> Iterator[Fit]:
        """Go over the members."""
        return iter(self.members)

    @property
    def method(self) -> FittedMethod:
        """The method that was fitted."""
        return self.members[0].method

    @property
    def course(self) -> TimeCourse:
        """The cells, in data coordinates; those observed where members resampled them."""
        return self.members[0].course

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From data to model coordinates; None where they are the same."""
        return self.members[0].preprocessing

    @property
    def origin(self) -> dict[str, Any]:
        """Where the cells came from, for the doors."""
        return self.members[0].origin

    @property
    def history(self) -> tuple[History, ...]:
        """What happened during training, for each member."""
        return tuple(fit.history for fit in self.members)

    @property
    def health(self) -> str:
        """How coupling went, for the first member with problems if there is one."""
        bad = [k for k, h in enumerate(self.history) if coupling_problems(h.coupling)]
        k = bad[0] if bad else 0
        told = f"{len(bad)} of {len(self)} members have problems; member {k}:"
        return f"{told}\n{self.members[k].health}"

    @property
    def summary(self) -> str:
        """Steps and time of the first member, as an example, and :attr:`health`."""
        first = self.members[0].summary.splitlines()[:2]
        return "\n".join([f"{len(self)} members, the first:", *first, self.health])

    def given(self, condition: Condition, *, guidance: float | None = None) -> Ensemble:
        """Return the ensemble of one `condition`: see :meth:`Fit.given`, also for `guidance`."""
        if self.course.conditions is not None:  # one number and one warning: members share cells
            guidance = strength(guidance, lambda: self.members[0].evidence)
        members = (fit.given(condition, guidance=guidance) for fit in self.members)
        return replace(self, members=tuple(members))

    def velocity(self, time: float | ArrayLike, x: ArrayLike) -> Spread:
        """Velocity at `time` and cells `x`, ``(members, n, d)``: see :meth:`Fit.velocity`."""
        return Spread(torch.stack([fit.velocity(time, x) for fit in self.members]))

    def score(self, time: float | ArrayLike, x: ArrayLike) -> Spread:
        """Score at `time` and cells `x`, ``(members, n, d)``: see :meth:`Fit.score`."""
        return Spread(torch.stack([fit.score(time, x) for fit in self.members]))

    def growth(self, time: float | ArrayLike, x: ArrayLike) -> Spread:
        """Growth rate at `time` and cells `x`, ``(members, n)``: see :meth:`Fit.growth`."""
        return Spread(torch.stack([fit.growth(time, x) for fit in self.members]))

    def log_prob(self, x: ArrayLike, time: float, *, base: Density | None = None) -> Tensor:
        """Log of the members' mean density at `x` and `time`, ``(n,)``: see :meth:`Fit.log_prob`.

        With the `base` there.
        """
        found = torch.stack([fit.log_prob(x, time, base=base) for fit in self.members])
        return found.logsumexp(0) - math.log(len(self))

    def simulate(
        self,
        x0: ArrayLike,
        times: Sequence[float] | ArrayLike,
        *,
        solver: str = "rk4",
        generator: Rng = 0,
        max_step: float | None = None,
        limits: Limits = Limits(),
        progress: bool = False,
    ) -> EnsembleTrajectory:
        """Simulate cells along the dynamics of every member: means, and standard deviations.

        The members are simulated in turn, in the memory of three trajectories. A stochastic
        solver draws the same noise for all of them, so that they differ by what they learned.

        With `x0`, `times`, `solver`, `generator`, `max_step`, `limits` and `progress` as in
        :meth:`Fit.simulate`.
        """
        seed = draw_seed(generator)
        states, masses = Moments(), Moments()
        evaluations = 0
        for fit in self.members:
            out = fit.simulate(
                x0,
                times,
                solver=solver,
                generator=seed,
                max_step=max_step,
                limits=limits,
                progress=progress,
            )
            states.add(out.x)
            if out.log_mass is not None:
                masses.add(out.log_mass)
            evaluations += out.n_evaluations
        return EnsembleTrajectory(
            times=out.times,
            x=states.mean,
            log_mass=masses.mean if masses.n else None,
            n_evaluations=evaluations,
            solver=out.solver,
            std=states.std,
            log_mass_std=masses.std if masses.n else None,
        )

    def interpolate(
        self,
        time: float,
        *,
        n_cells: int | None = None,
        weighted: bool = True,
        solver: str = "rk4",
        generator: Rng = 0,
    ) -> Interpolation:
        """Cells of the population at any `time`, by every member, from the same cells.

        With the `n_cells`, `solver` and `generator` of :meth:`Fit.interpolate`. Cells that are not
        `weighted` are drawn by their mean share of the members' mass.
        """
        seed = draw_seed(generator)
        size = n_cells if weighted else None
        cells = [
            fit.interpolate(time, n_cells=size, solver=solver, generator=seed)
            for fit in self.members
        ]
        if not weighted:
            before, _ = sides_of(self.course, time, self.method.both_sides)[0]
            number = len(before) if n_cells is None else _checks.count(n_cells, "n_cells")
            cells = equal_cells(cells, number, torch.Generator().manual_seed(seed))
        return Interpolation(tuple(cells))

    def predict(
        self, start: Snapshot, time: float, *, solver: str = "rk4", generator: Rng = 0
    ) -> Interpolation:
        """Predict the cells of `start` at another `time`, by every member.

        With the `solver` and `generator` of :meth:`Fit.predict`.
        """
        seed = draw_seed(generator)
        cells = (fit.predict(start, time, solver=solver, generator=seed) for fit in self.members)
        return Interpolation(tuple(cells))

    def save(self, folder: str | FilePath) -> FilePath:
        """Write a folder of members to `folder`, new or empty; see :func:`cellflow.load`."""
        return save_ensemble(self.members, folder, seeds=self.seeds, bootstrap=self.bootstrap)
