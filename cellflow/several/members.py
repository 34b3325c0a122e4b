"""Fit the members of an ensemble, side by side where there are cores for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from cellflow import _checks
from cellflow._files import beside
from cellflow._process_group import ProcessGroup
from cellflow._processes import side_by_side
from cellflow._random import draw_seed, stream_rng, stream_seed
from cellflow.fits.ensemble import Ensemble
from cellflow.fits.fit import Fit
from cellflow.logging import say
from cellflow.methods import Method
from cellflow.preprocessing import Preprocessing
from cellflow.several.stacked import UnequalStepsError, fit_stacked, stackable
from cellflow.snapshot import Snapshot, totals
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions

#: Seed of a member's resampled cells, or None for all cells; and the options of its fit.
Job = tuple[int | None, FitOptions]

#: Training steps, over all fits, from which on processes are started without being asked for.
MIN_STEPS_FOR_PROCESSES = 4000
#: Devices on which members are trained as one.
STACKED = ("cuda",)
#: Members, at most: each is a fit.
MOST = 10_000


def fit_members(
    method: Method,
    course: TimeCourse,
    options: FitOptions | None = None,
    *,
    members: int = 8,
    bootstrap: bool = False,
    preprocessing: Preprocessing | None = None,
    workers: int | None = None,
) -> Ensemble:
    """Fit a method several times, with seeds of their own, to know what a fit leaves open.

    Member `k` is ``method.fit(course, generator=seeds[k], …)`` on one thread, to the bit, whether
    it was fitted in this process or beside the others. Time is that of all fits divided by the
    workers, plus two to five seconds for the first start of these; memory that of a fit for each
    worker. On an NVIDIA GPU the members of a plain method are trained as one, equal to separate
    fits to rounding, in the memory of all of them.

    Parameters
    ----------
    method, course, preprocessing
        As in :func:`fit_on`.
    options
        As in :meth:`Method.fit`. The seeds of the members follow from its own; each member has a
        checkpoint beside its file (``run.member0.safetensors``); the processes of its group each
        call this, share the members, and all get them (:func:`join_process_group`). With
        `on_step`, which a report tells the number of its member, there is one worker.
    members, bootstrap
        How many fits, and whether each is trained on resampled cells, so that the spread covers the
        sampling of cells too.
    workers
        Processes, each with one thread; as many as there are cores when omitted, 1 for none. On
        a GPU all members share this process.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, which ends all fits: with checkpoints, calling again resumes them.
    """
    options = options or FitOptions(steps=method.default_steps)
    _checks.count(members, "members", low=2, high=MOST)
    if bootstrap and method.knows_rows:
        expected = "False for a coupling that knows cells by their rows"
        raise ValueError(_checks.message("bootstrap", "True", expected))
    seeds = tuple(stream_seed(options.seed, k, 50) for k in range(members))
    place = _checks.as_device(options.device, course.snapshots[0].x.device)
    told = options.on_step
    say(f"{method.name}: training {members} members on {place}", show=options.progress)

    def job(k: int) -> Job:
        file = beside(options.checkpointing.path, f"member{k}")
        own = replace(options, checkpointing=replace(options.checkpointing, path=file))
        own = replace(own, seed=draw_seed(seeds[k]), device=place, group=ProcessGroup())
        if told is not None:
            own = replace(own, on_step=lambda report: told(replace(report, member=k)))
        return (seeds[k] if bootstrap else None), own

    def fit_all(mine: Sequence[int]) -> list[Fit]:
        jobs = [job(k) for k in mine]
        if place.type in STACKED and stackable(method) and len(mine) > 1 and told is None:
            courses = [resampled(course, seed) for seed, _ in jobs]
            try:
                own = [options for _, options in jobs]
                fits = fit_stacked(method, courses, own, preprocessing=preprocessing)
                return [_without_cells(fit) for fit in fits]
            except UnequalStepsError:
                pass  # each goes on from where it was
        return side_by_side(
            partial(_fit_one, method, course, preprocessing),
            jobs,
            workers=1 if told else workers,
            heavy=len(mine) * options.steps >= MIN_STEPS_FOR_PROCESSES,
            here=place.type != "cpu" or course.snapshots[0].x.device.type != "cpu",
            progress=options.progress,
        )

    fits = options.group.shared(range(members), fit_all)
    fits = [replace(fit, course=course, preprocessing=preprocessing) for fit in fits]
    out = Ensemble(tuple(fits), seeds, bootstrap)
    if options.progress:
        say(out.health)
    return out


def _fit_one(
    method: Method, course: TimeCourse, preprocessing: Preprocessing | None, job: Job
) -> Fit:
    seed, options = job
    fit = method.fit_with(resampled(course, seed), replace(options, progress=False), preprocessing)
    return _without_cells(fit)


def _without_cells(fit: Fit) -> Fit:
    """Return `fit` without what need not travel back, which :func:`fit_members` adds again."""
    if fit.history.stopped == "interrupted":  # that fit alone ended: end them all
        raise KeyboardInterrupt
    return replace(fit, course=None, preprocessing=None)  # type: ignore[arg-type]


def resampled(course: TimeCourse, seed: int | None) -> TimeCourse:
    """Draw as many cells of each snapshot as it has, with replacement :cite:`efron1979`.

    Without a `seed`, return all cells of `course`.

    A cell that was drawn several times is there once, with its mass as many times: so no cell is
    both trained and validated on. Each snapshot, or stratum of one, keeps its whole mass, the
    population's size, and about 63 % of its cells.
    """
    if seed is None:
        return course
    snapshots = []
    for k, (s, number) in enumerate(zip(course.snapshots, course.strata, strict=True)):
        rng = stream_rng(seed, k, 51)
        times = torch.zeros(len(s), dtype=torch.long)
        for j in number.unique():
            rows = (number == j).nonzero()[:, 0].cpu()
            drawn = torch.randint(len(rows), (len(rows),), generator=rng)
            times[rows] = torch.bincount(drawn, minlength=len(rows))
        kept = times.nonzero()[:, 0].to(s.x.device)
        part: Snapshot = s.subset(kept)
        mass, n = part.mass.double() * times.to(s.x.device)[kept], number[kept]
        mass *= totals(s.mass, number)[n] / totals(mass, n)[n]
        snapshots.append(replace(part, mass=mass.to(part.mass)))
    return replace(course, snapshots=tuple(snapshots))
