"""What a method is, and how it is fitted."""

from __future__ import annotations

import hashlib
import sys
import zlib
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._threads import one_thread
from cellflow._typing import Rng
from cellflow.batches import Batching, CouplingHealth, PairSampler
from cellflow.couplings import Coupling
from cellflow.dynamics import Dynamics
from cellflow.fitting import Checkpointing, train
from cellflow.methods.fit import Fit
from cellflow.methods.recipe import describe
from cellflow.nets import MLP, MLPConfig, Units
from cellflow.objectives import velocity_matching
from cellflow.paths import Path, PathPoint
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training import History, Trainer, Training

#: Pairs per interval on which the validation loss is measured.
_VALIDATION_PAIRS = 1024


@dataclass(frozen=True)
class FlowMatching:
    """Simulation-free flow matching: hyperparameters, without data.

    A coupling says who is paired with whom, a path where a pair is met between. The published
    methods are recipes of this class: :func:`~cellflow.methods.OTCFM`,
    :func:`~cellflow.methods.ICFM`, :func:`~cellflow.methods.SBCFM`.

    Parameters
    ----------
    coupling
        From two snapshots to a plan.
    path
        Between paired cells.
    net
        Shape of the network.
    batching
        How pairs are made.
    training
        How the network is trained.
    name
        What tables and files call this method.
    """

    coupling: Coupling
    path: Path
    net: MLPConfig = MLPConfig()
    batching: Batching = Batching()
    training: Training = Training()
    name: str = "flow_matching"

    def fit(
        self,
        course: TimeCourse,
        *,
        steps: int = 3000,
        generator: Rng = 0,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: Checkpointing | None = None,
        progress: bool = True,
    ) -> Fit:
        """Learn the dynamics that carry each snapshot into the next.

        Parameters
        ----------
        course
            Snapshots of the population, in data coordinates.
        steps
            Budget of training steps.
        generator
            Seed or generator; it decides everything that is random.
        preprocessing
            Applied to the cells before training and undone in every answer; the noise of the
            path is in its coordinates.
        device
            ``"cpu"``, ``"cuda"``, ``"mps"``; that of the course when omitted.
        dtype
            Floating type of cells and network; that of the course when omitted.
        checkpointing
            File to write and resume from.
        progress
            Whether to show a bar and the device on standard error.

        Returns
        -------
        The fit, which can simulate, and be saved.

        Raises
        ------
        ValueError
            If an argument is out of its range.
        FloatingPointError
            If training diverges.
        """
        _checks.count(steps, "steps")
        rng = _checks.as_generator(generator)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        model = course if preprocessing is None else course.map(preprocessing.apply)
        place = _checks.as_device(device, model.x.device)
        if dtype is None and place.type == "mps":
            dtype = torch.float32  # the only one that this device computes in
        if not self._whole:  # a precomputed plan knows cells by their rows
            model = canonical(model)
        units = Units.of(model)
        model = model.to(device=place, dtype=dtype)
        x = model.snapshots[0].x
        net = MLP(units, self.net, generator=stream_seed(seed, 0, 10)).to(x)
        dynamics = Dynamics(net)
        trainer = Trainer(
            net,
            lambda batch: velocity_matching(dynamics, batch),
            unit=units.speed**2,
            training=self.training,
            steps=steps,
        )
        if progress:
            tqdm.write(f"{self.name}: training on {x.device}, {x.dtype}", file=sys.stderr)
        history = self._train(trainer, model, seed, checkpointing or Checkpointing(), progress)
        return Fit(dynamics, self, course, preprocessing=preprocessing, history=history)

    @property
    def _whole(self) -> bool:
        return getattr(self.coupling, "needs_whole", False)

    def _train(
        self,
        trainer: Trainer,
        course: TimeCourse,
        seed: int,
        checkpointing: Checkpointing,
        progress: bool,
    ) -> History:
        if self._whole:
            kept, held = course, None
        else:
            kept, held = split(course, self.training.validation, seed)
        health = CouplingHealth()
        sampler = PairSampler(kept, self.coupling, self.batching, stream_seed(seed, 0, 11), health)
        x = course.snapshots[0].x
        noise = torch.Generator(device=x.device)

        def draw(step: int) -> PathPoint:
            noise.manual_seed(stream_seed(seed, step, 12))
            return self.path.draw(sampler.batch(step), noise)

        fingerprint = {
            "method": describe(self),
            "plan": getattr(self.coupling, "digest", None),
            "steps": trainer.steps,
            "seed": seed,
            "times": list(course.times),
            "cells": [len(s) for s in course.snapshots],
            "data": _digest(course),
        }
        # A small network loses time by sharing a step.
        small = x.device.type == "cpu" and self.net.width <= 256
        try:
            with one_thread() if small else nullcontext():
                return train(
                    trainer,
                    draw,
                    None if held is None else self._validation(held, seed, health),
                    checkpointing=checkpointing,
                    fingerprint=fingerprint,
                    progress=progress,
                )
        finally:
            sampler.close()
            trainer.history.coupling = health.summary()

    def _validation(self, held: TimeCourse, seed: int, health: CouplingHealth) -> PathPoint:
        """One fixed batch: the same pairs, times and noise at every check."""
        batching = Batching(_VALIDATION_PAIRS, self.batching.block_size, 1, prefetch=False)
        sampler = PairSampler(held, self.coupling, batching, stream_seed(seed, 0, 13), health)
        noise = torch.Generator(device=held.x.device).manual_seed(stream_seed(seed, 0, 14))
        return self.path.draw(sampler.batch(0), noise)


def _digest(course: TimeCourse) -> str:
    digest = hashlib.sha256()
    for s in course.snapshots:
        for part in (s.x, s.mass):
            digest.update(part.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def canonical(course: TimeCourse) -> TimeCourse:
    """Return the course with cells in an order of their own, so that the user's never matters."""

    def order(s: Snapshot) -> Snapshot:
        x = s.x.detach().cpu().double().numpy()
        # Cells of expression tie in many dimensions: a hash of all of them decides.
        rest = [zlib.crc32(row.tobytes()) for row in x] if x.shape[1] > 8 else []
        keys = [*x.T[:8], *([np.array(rest)] if rest else []), s.mass.cpu().double().numpy()]
        index = torch.from_numpy(np.lexsort(keys[::-1]).copy()).to(s.x.device)
        return s.subset(index)

    return TimeCourse(tuple(order(s) for s in course.snapshots), course.unit)


def split(course: TimeCourse, fraction: float, seed: int) -> tuple[TimeCourse, TimeCourse | None]:
    """Split each snapshot at random into cells to train on and cells to validate on.

    Nothing is held back from a course with a snapshot too small to spare two cells.
    """
    sizes = [int(fraction * len(s)) for s in course.snapshots]
    if min(sizes) < 2:
        return course, None
    kept, held = [], []
    for k, (s, size) in enumerate(zip(course.snapshots, sizes, strict=True)):
        generator = torch.Generator().manual_seed(stream_seed(seed, k, 15))
        order = torch.randperm(len(s), generator=generator).to(s.x.device)
        held.append(s.subset(order[:size]))
        kept.append(s.subset(order[size:]))
    return TimeCourse(tuple(kept), course.unit), TimeCourse(tuple(held), course.unit)
