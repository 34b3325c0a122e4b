"""Answers of several fits: their mean and how far they disagree."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow._typing import Tensor
from cellflow.simulate import Trajectory
from cellflow.timecourse import Snapshot


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
