"""Fit the members of an ensemble, side by side where there are cores for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from tqdm import tqdm

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._processes import side_by_side
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng
from cellflow.fits.ensemble import Ensemble
from cellflow.fits.fit import Fit
from cellflow.methods.method import Method
from cellflow.preprocessing import Preprocessing
from cellflow.several.stacked import fit_stacked, stackable
from cellflow.several.together import UnequalStepsError
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.loop import Checkpointing

#: Training steps, over all fits, from which on processes are started without being asked for.
WORTH = 4000
#: Devices on which members are trained as one.
STACKED = ("cuda",)


def fit_members(
    method: Method,
    course: TimeCourse,
    *,
    members: int = 8,
    bootstrap: bool = False,
    steps: int = 3000,
    generator: Rng = 0,
    preprocessing: Preprocessing | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    checkpointing: Checkpointing | None = None,
    workers: int | None = None,
    progress: bool = True,
    ranks: ProcessGroup | None = None,
) -> Ensemble:
    """Fit a method several times, with seeds of their own, to know what a fit leaves open.

    Member `k` is ``method.fit(course, generator=seeds[k], …)`` on one thread, to the bit, whether
    it was fitted in this process or beside the others. Time is that of all fits divided by the
    workers, plus two to five seconds for the first start of these; memory that of a fit for each
    worker. On an NVIDIA GPU the members of a plain method are trained as one, equal to separate
    fits to rounding, in the memory of all of them.

    Parameters
    ----------
    method
        What to fit.
    course
        Snapshots of the population, in data coordinates.
    members
        How many fits.
    bootstrap
        Whether each member is trained on :func:`resampled` cells, so that the spread covers the
        sampling of cells too.
    steps, preprocessing, device, dtype
        As in :meth:`FlowMatching.fit`.
    generator
        Seed or generator, from which the seeds of the members follow.
    checkpointing
        File to write and resume from; each member has one beside it (``run.member0.safetensors``).
    workers
        Processes, each with one thread; as many as there are cores when omitted, 1 for none. On
        a GPU all members share this process.
    progress
        Whether to show a bar over the fits on standard error.
    ranks
        Processes that each call this, share the members, and all get them:
        see :func:`~cellflow.several.join`.

    Returns
    -------
    Ensemble
        The fits.

    Raises
    ------
    ValueError
        If an argument is out of its range, or cells are to be resampled of which a coupling knows
        the rows.
    FloatingPointError
        If training diverges.
    KeyboardInterrupt
        On Ctrl-C, which ends all fits: with checkpoints, calling again resumes them.
    """
    _checks.count(members, "members", low=2)
    _checks.count(steps, "steps")
    if bootstrap and _knows_rows(method):
        expected = "False for a coupling that knows cells by their rows"
        raise ValueError(_checks.message("bootstrap", "True", expected))
    place = _checks.as_device(device, course.x.device)
    ranks = ranks or ProcessGroup()
    seed = draw_seed(generator, ranks)
    seeds = tuple(stream_seed(seed, k, 50) for k in range(members))
    if progress:
        text = f"{method.name}: training {members} members on {place}"
        tqdm.write(text, file=sys.stderr)
    task = _Task(
        method,
        course,
        preprocessing,
        seeds,
        bootstrap=bootstrap,
        steps=steps,
        device=place,
        dtype=dtype,
        checkpointing=checkpointing or Checkpointing(),
    )
    fits = ranks.shared(
        range(members), lambda mine: _fit_all(task, mine, workers=workers, progress=progress)
    )
    fits = [replace(f, course=course, preprocessing=preprocessing) for f in fits]
    out = Ensemble(tuple(fits), seeds, bootstrap)
    if progress:
        tqdm.write(out.health, file=sys.stderr)
    return out


@dataclass(frozen=True, eq=False)
class _Task:
    """What all members have in common."""

    method: Method
    course: TimeCourse
    preprocessing: Preprocessing | None
    seeds: tuple[int, ...]
    bootstrap: bool
    steps: int
    device: torch.device
    dtype: torch.dtype | None
    checkpointing: Checkpointing

    def cells(self, k: int) -> TimeCourse:
        """What member `k` is trained on."""
        return resampled(self.course, self.seeds[k]) if self.bootstrap else self.course


def _fit_all(task: _Task, mine: Sequence[int], *, workers: int | None, progress: bool) -> list[Fit]:
    """Fit the members `mine`: as one on a GPU, side by side on a CPU."""
    if task.device.type in STACKED and stackable(task.method) and len(mine) > 1:
        try:
            return _fit_stacked(task, mine, progress)
        except UnequalStepsError:
            pass  # each goes on from where it was
    return side_by_side(
        _fit_one,
        task,
        mine,
        workers=workers,
        heavy=len(mine) * task.steps >= WORTH,
        here=task.device.type != "cpu" or task.course.snapshots[0].x.device.type != "cpu",
        progress=progress,
    )


def _fit_stacked(task: _Task, mine: Sequence[int], progress: bool) -> list[Fit]:
    fits = fit_stacked(
        task.method,  # type: ignore[arg-type] # stackable
        [task.cells(k) for k in mine],
        [task.seeds[k] for k in mine],
        preprocessing=task.preprocessing,
        steps=task.steps,
        device=task.device,
        dtype=task.dtype,
        checkpoints=[beside(task.checkpointing.path, k) for k in mine],
        checkpointing=task.checkpointing,
        progress=progress,
    )
    if fits[0].history.stopped == "interrupted":
        raise KeyboardInterrupt
    return [replace(fit, course=None, preprocessing=None) for fit in fits]


def _fit_one(task: _Task, k: int) -> Fit:
    """Fit member `k`, without the cells, which need not travel back."""
    fit = task.method.fit(
        task.cells(k),
        steps=task.steps,
        generator=task.seeds[k],
        preprocessing=task.preprocessing,
        device=task.device,
        dtype=task.dtype,
        checkpointing=replace(task.checkpointing, path=beside(task.checkpointing.path, k)),
        progress=False,
    )
    if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
        raise KeyboardInterrupt
    return replace(fit, course=None, preprocessing=None)


def resampled(course: TimeCourse, seed: int) -> TimeCourse:
    """Draw as many cells of each snapshot as it has, with replacement (Efron 1979).

    A cell that was drawn several times is there once, with its mass as many times: so no cell is
    both trained and validated on. Each snapshot keeps its whole mass, the population's size.

    Parameters
    ----------
    course
        Cells to draw from.
    seed
        Decides which.

    Returns
    -------
    About 63 % of the cells.
    """
    snapshots = []
    for k, s in enumerate(course.snapshots):
        generator = torch.Generator().manual_seed(stream_seed(seed, k, 51))
        drawn = torch.randint(len(s), (len(s),), generator=generator)
        times = torch.bincount(drawn, minlength=len(s))
        kept = times.nonzero()[:, 0].to(s.x.device)
        part: Snapshot = s.subset(kept)
        mass = part.mass.double() * times.to(s.x.device)[kept]
        mass *= s.total_mass / mass.sum()
        snapshots.append(replace(part, mass=mass.to(part.mass)))
    return TimeCourse(tuple(snapshots), course.unit)


def beside(path: str | FilePath | None, k: int) -> FilePath | None:
    """Return the checkpoint of member `k` beside `path`; None for none."""
    if path is None:
        return None
    path = FilePath(path)
    return path.with_name(f"{path.stem}.member{k}{path.suffix}")


def _knows_rows(method: Any) -> bool:
    return any(getattr(m, "knows_rows", False) for m in (method, getattr(method, "base", None)))
