"""What a method is, and how it is fitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.batches import Batching, CouplingHealth, PairSampler, spline_rates
from cellflow.couplings.coupling import Coupling, as_coupling
from cellflow.fits.facts import describe
from cellflow.fits.fit import Fit
from cellflow.fits.report import coupling_report
from cellflow.networks import MLPConfig
from cellflow.paths import Pairs, Path
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import canonical, digest, moved, natural_sigma
from cellflow.training.loop import Checkpointing
from cellflow.training.prepare import begin
from cellflow.training.train_on_pairs import learn, workers_for
from cellflow.training.trainer import Training

#: Pairs per interval on which the validation loss is measured.
_VALIDATION_PAIRS = 1024


@dataclass(frozen=True)
class FlowMatching:
    """Simulation-free flow and score matching: hyperparameters, without data.

    A coupling says who is paired with whom, a path where a pair is met between. The published
    methods are recipes of this class, such as :func:`~cellflow.methods.OTCFM` and
    :func:`~cellflow.methods.SF2M`.

    Parameters
    ----------
    coupling
        From two snapshots to a plan.
    path
        Between paired cells.
    net
        Shape of the networks.
    batching
        How pairs are made.
    training
        How the networks are trained.
    name
        What tables and files call this method.
    score
        Whether to learn the score beside the velocity, for stochastic dynamics.
    growth
        Whether to learn the growth rate beside the velocity, from the masses of the plans.
    direct_velocity
        Beside a score: whether the velocity is regressed as it is (Tong et al. 2023), with a
        variance that diverges at the ends of a bridge. Otherwise the velocity of the path's mean
        is regressed, and the noise's part is taken from the score.
    relative_sigma
        Whether the sigmas of coupling and path are multiples of the data's own:
        :func:`~cellflow.training.cells.natural_sigma`. The method of a fit has absolute ones.
    """

    coupling: Coupling
    path: Path
    net: MLPConfig = MLPConfig()
    batching: Batching = Batching()
    training: Training = Training()
    name: str = "flow_matching"
    score: bool = False
    growth: bool = False
    direct_velocity: bool = False
    relative_sigma: bool = False

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
        ranks: ProcessGroup | None = None,
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
        ranks
            Processes that train together, each of which calls this: :func:`fit_on` does.

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
        ranks = ranks or ProcessGroup()
        seed = draw_seed(generator, ranks)
        place = {"device": device, "dtype": dtype}
        start = begin(self, course, preprocessing, seed=seed, steps=steps, ranks=ranks, **place)
        method, networks = start.method, start.networks
        if progress:
            of = next(networks.parameters())
            tqdm.write(f"{self.name}: training on {of.device}, {of.dtype}", file=sys.stderr)
        sampler, aside = method.samplers(start.parts, seed, ranks)
        upfront = sampler.health.waited
        try:
            history = learn(
                method,
                networks,
                start.dynamics,
                pairs=sampler.batch,
                held=aside,
                units=start.units,
                steps=steps,
                seed=seed,
                fingerprint=start.facts,
                checkpointing=checkpointing or Checkpointing(),
                progress=progress,
                ranks=ranks,
            )
        finally:
            sampler.close()
        start.account(history, sampler, upfront)
        if progress:
            tqdm.write(coupling_report(history.coupling), file=sys.stderr)
        history = ranks.broadcast(lambda: history)  # the clocks of ranks differ
        return Fit(start.dynamics, method, course, networks, preprocessing, history)

    def samplers(
        self, parts: Sequence[TimeCourse], seed: int, ranks: ProcessGroup
    ) -> tuple[PairSampler, Pairs | None]:
        """Return what pairs the cells to train on, and pairs of cells held back to validate on.

        Parameters
        ----------
        parts
            Cells to train on and, if there are any, those held back, in model coordinates.
        seed
            The seed of the fit.
        ranks
            Who couples together.
        """
        kept, *held = parts
        health = CouplingHealth()
        workers = workers_for(self.net, kept.snapshots[0].x.device)
        streams = stream_seed(seed, 0, 11), health, self.rates(kept), workers, ranks
        sampler = PairSampler(kept, self.coupling, self.batching, *streams)
        if not held:
            return sampler, None
        batching = Batching(_VALIDATION_PAIRS, self.batching.block_size, 1, prefetch=False)
        others = stream_seed(seed, 0, 13), health, self.rates(held[0]), 1, ranks
        return sampler, PairSampler(held[0], self.coupling, batching, *others).batch(0)

    def prepare(
        self,
        course: TimeCourse,
        preprocessing: Preprocessing | None,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> TimeCourse:
        """Return the cells of `course` in model coordinates, in an order that is theirs alone.

        Parameters
        ----------
        course
            Cells in data coordinates.
        preprocessing
            To model coordinates.
        device, dtype
            Where, and in which floating type, to train.
        """
        model = course if preprocessing is None else course.map(preprocessing.apply)
        if not self.knows_rows:  # a precomputed plan knows cells by their rows
            model = canonical(model)
        return moved(model, device, dtype)

    def scaled_to(self, course: TimeCourse, *more: TimeCourse) -> FlowMatching:
        """Return this method with absolute sigmas.

        Parameters
        ----------
        course, *more
            Parts of one course in model coordinates.
        """
        if not self.relative_sigma:
            return self
        unit = natural_sigma(course, *more)
        parts = {}
        for name in ("coupling", "path"):
            part = getattr(self, name)
            if getattr(part, "sigma", None) is not None:
                part = replace(part, sigma=part.sigma * unit)
            parts[name] = part
        return replace(self, **parts, relative_sigma=False)

    def rates(self, course: TimeCourse) -> Tensor | None:
        """Return the velocity of each cell of `course`, if the path wants it and there is a bend.

        Parameters
        ----------
        course
            Cells in model coordinates.

        Returns
        -------
        As :func:`~cellflow.batches.spline_rates`; None for two snapshots and for straight paths.
        """
        if not self.path.needs_rates or len(course) < 3:
            return None
        return spline_rates(course, self.coupling)

    def fingerprint(self, parts: Sequence[TimeCourse], steps: int, seed: int) -> dict[str, Any]:
        """Return the facts that a checkpoint of a fit of a course must agree on.

        Parameters
        ----------
        parts
            Cells in model coordinates.
        steps
            Budget of steps.
        seed
            The seed of the fit.
        """
        return {
            "method": describe(self),
            "plan": as_coupling(self.coupling).digest,
            "steps": steps,
            "seed": seed,
            "times": list(parts[0].times),
            "cells": [len(s) for part in parts for s in part.snapshots],
            "training cells": digest(*parts),
        }

    @property
    def knows_rows(self) -> bool:
        """Whether the coupling knows cells by their rows, which must then stay as they are."""
        return as_coupling(self.coupling).knows_rows
