"""Members of an ensemble trained as one: their weights in one tensor, their batches in another.

On a GPU a step of a small network is the launching of its kernels; members that take the step
together launch them once. On a CPU nothing is gained, so there they run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import torch

from cellflow._process_group import ProcessGroup
from cellflow._random import draw_seed
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.preprocessing import Preprocessing
from cellflow.several.together import Member, Together, stack
from cellflow.timecourse import TimeCourse
from cellflow.training.loop import Checkpointing, train
from cellflow.training.prepare import begin
from cellflow.training.trainer import History


def stackable(method: Any) -> bool:
    """Whether members of `method` can be trained as one: a plain method, not compiled."""
    return type(method) is FlowMatching and method.training.compile is None


def fit_stacked(
    method: FlowMatching,
    courses: Sequence[TimeCourse],
    seeds: Sequence[int],
    *,
    preprocessing: Preprocessing | None,
    steps: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    checkpoints: Sequence[FilePath | None],
    checkpointing: Checkpointing,
    progress: bool,
) -> list[Fit]:
    """Fit members as one; each as ``method.fit(courses[k], generator=seeds[k], ...)`` to rounding.

    Parameters
    ----------
    method
        A :func:`stackable` one.
    courses, seeds, checkpoints
        Of each member: its cells, its seed, its file or None.
    preprocessing, steps, device, dtype, checkpointing, progress
        As in :meth:`FlowMatching.fit`; the path of `checkpointing` only says whether to write.

    Returns
    -------
    One fit for each member.

    Raises
    ------
    UnequalStepsError
        If the files of the members are of different steps.
    """
    place = {"device": device, "dtype": dtype}
    members: list[Member] = []
    try:
        for course, seed, file in zip(courses, seeds, checkpoints, strict=True):
            own = draw_seed(seed)
            start = begin(method, course, preprocessing, seed=own, steps=steps, **place)
            sampler, held = start.method.samplers(start.parts, own, ProcessGroup())
            members.append(Member(start, sampler, held, file))
        upfront = [m.sampler.health.waited for m in members]
        histories = learn_stacked(
            members, steps=steps, checkpointing=checkpointing, progress=progress
        )
    finally:
        for m in members:
            m.sampler.close()
    fits = []
    for k, (m, history) in enumerate(zip(members, histories, strict=True)):
        of = m.start
        of.account(history, m.sampler, upfront[k])
        fits.append(Fit(of.dynamics, of.method, courses[k], of.networks, preprocessing, history))
    return fits


def learn_stacked(
    members: Sequence[Member],
    *,
    steps: int,
    checkpointing: Checkpointing,
    progress: bool,
) -> list[History]:
    """Train the networks of all members, in place, as each would be trained alone.

    Sums come in another order, so that weights agree to rounding. Memory is that of all members
    at once, and of one step of all.

    Parameters
    ----------
    members
        Of one method, with batches of one size.
    steps
        Budget of steps.
    checkpointing
        How often files are written; which, the members say.
    progress
        Whether to show a bar on standard error.

    Returns
    -------
    What happened to each.

    Raises
    ------
    FloatingPointError
        If the loss of a member stops being finite.
    ValueError
        If checkpoints of members are of different steps.
    """
    together = Together(members, steps)
    held = [None if m.held is None else m.meet(m.held, 0, 14) for m in members]
    train(
        together,  # type: ignore[arg-type] # has what is asked of a trainer
        lambda step: stack([m.meet(m.sampler.batch(step), step, 12) for m in members]),  # type: ignore[arg-type,return-value]
        held,  # type: ignore[arg-type]
        checkpointing=checkpointing,
        fingerprint={},
        progress=progress,
    )
    for trainer in together.trainers:
        history = trainer.history
        history.seconds += together.history.seconds / len(members)
        for what, seconds in together.history.timing.items():
            history.timing[what] = history.timing.get(what, 0.0) + seconds / len(members)
        history.stopped = together.history.stopped
        if trainer.out_of_patience:
            history.stopped = "patience"
    return [trainer.history for trainer in together.trainers]
