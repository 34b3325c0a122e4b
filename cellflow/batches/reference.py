"""A reference drift: the field that measured velocities tell, and where it carries cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import torch

from cellflow import _checks
from cellflow._random import shuffle, stream_rng
from cellflow._typing import Tensor
from cellflow.timecourse import Snapshot, TimeCourse

#: Pairs of snapshots, one for each interval.
Steps: TypeAlias = Sequence[tuple[Snapshot, Snapshot]]
#: Cells, at most, that the field is fitted to, and that have a bump of their own.
MOST, CENTRES = 4096, 256
#: Widths of a bump that are tried, in median distances of centres, and ridges.
WIDTHS, RIDGES = (0.5, 1.0), [10.0**k for k in range(-6, 4)]
#: Steps of Runge and Kutta over an interval, and degree of the polynomial through them.
STEPS, DEGREE = 16, 8
#: Largest error of that polynomial, relative to the longest way, in the mean over its steps.
WINDING = 0.1
#: Cells that are carried at once.
BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Reference:
    r"""Smooth field through the velocities of cells, the same at all times.

    .. math:: f(x) = (x, 1) A + \sum_k w_k\, e^{-\lVert x - c_k\rVert^2 / 2 l^2}

    Of the formula, A is `linear` ``(d + 1, d)``, c and w are `centres` and `weights` ``(k, d)``,
    and l, in data units, is `width`.
    """

    linear: Tensor
    centres: Tensor
    weights: Tensor
    width: float

    @classmethod
    def of(cls, *courses: TimeCourse) -> Self | None:
        """Fit the velocities of all cells that have one; None if none has.

        A linear field is fitted first, and bumps to what it leaves, by ridge regression whose
        width and ridge predict best the velocity of a cell left out.

        Parameters
        ----------
        *courses
            Cells, in the same coordinates.
        """
        from sklearn.linear_model import RidgeCV

        known = [s for c in courses for s in c.snapshots if s.velocity is not None]
        if not known:
            return None
        x, v = (torch.cat([getattr(s, name) for s in known]) for name in ("x", "velocity"))
        rows = shuffle(len(x), stream_rng(0, 0, 70))[:MOST].to(x.device)
        x, v = (value[rows].detach().cpu().double() for value in (x, v))
        linear = torch.linalg.lstsq(_with_one(x), v, driver="gelsd").solution
        rest, centres = v - _with_one(x) @ linear, x[:CENTRES]
        unit, found = float(torch.pdist(centres).median()) if len(x) > 1 else 1.0, []
        for width in (part * (unit or 1.0) for part in WIDTHS):
            ridge = RidgeCV(RIDGES, fit_intercept=False)
            ridge.fit(_bumps(x, centres, width).numpy(), rest.numpy())
            weights = torch.from_numpy(ridge.coef_).reshape(-1, len(centres)).T
            found.append((ridge.best_score_, width, weights))
        _, width, weights = max(found, key=lambda each: each[0])
        return cls(linear, centres, weights, width)

    def __call__(self, x: Tensor) -> Tensor:
        """Velocity at cells `x` ``(n, d)``, in float64 on the CPU: ``(n, d)``."""
        return _with_one(x) @ self.linear + _bumps(x, self.centres, self.width) @ self.weights

    def carry(self, course: TimeCourse) -> tuple[Steps, Tensor]:
        """Carry the cells of each snapshot of `course` to the time of the next.

        Returns the intervals, their sources carried, and for each cell of ``course.x`` the
        coefficients of s², s³, … of its way there, with s from 0 to 1: ``(sum n_k, p, d)``.
        """
        steps, ways = [], []
        for source, target in course.steps:
            blocks = source.x.detach().cpu().double().split(BLOCK)
            way = torch.cat([self._way(x, target.time - source.time) for x in blocks])
            steps.append((replace(source, x=source.x + way.sum(1).to(source.x)), target))
            ways.append(way[:, 1:].to(source.x))
        last = target.x
        return steps, torch.cat([*ways, last.new_zeros(len(last), *ways[0].shape[1:])])

    def _way(self, x: Tensor, span: float) -> Tensor:
        """Coefficients ``(n, p, d)`` of s, s², … of the ways of cells `x` over `span`."""
        h, at, moved = span / STEPS, x, []
        for _ in range(STEPS):
            a = self(at)
            b = self(at + h / 2 * a)
            c = self(at + h / 2 * b)
            at = at + h / 6 * (a + 2 * b + 2 * c + self(at + h * c))
            moved.append(at - x)
        ways = torch.stack(moved)
        s = torch.arange(1, STEPS + 1, dtype=x.dtype)[:, None] / STEPS
        powers = s ** torch.arange(1, DEGREE + 1)
        out = torch.einsum("pk,knd->npd", torch.linalg.pinv(powers), ways)
        error = (torch.einsum("kp,npd->knd", powers, out) - ways).abs().max()
        if not bool(error <= WINDING * ways.abs().amax((1, 2)).mean()):
            got = f"velocities that wind cells up, or off to infinity, within {span:g}"
            remedy = "Bring them to the unit of the times, or leave them out."
            raise ValueError(_checks.message("velocity", got, "about a turn at most", remedy))
        return out


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _bumps(x: Tensor, centres: Tensor, width: float) -> Tensor:
    return (-0.5 * (torch.cdist(x, centres) / width) ** 2).exp()
