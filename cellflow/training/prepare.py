"""Preparation of a fit: cells in model coordinates, networks, and pairs to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._threads import spare_cores
from cellflow._typing import Tensor
from cellflow.batches import Batching, CouplingHealth, PairSampler, Reference, spline_rates
from cellflow.dynamics import Dynamics
from cellflow.logging import say
from cellflow.networks import Units
from cellflow.paths import Pairs
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import IntegrationError, Trajectory, simulate
from cellflow.strata import told
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import digest, split_in_canonical_order, to_device
from cellflow.training.networks import Parts, assemble, build_networks
from cellflow.training.options import FitOptions
from cellflow.training.trainer import History

#: Pairs per interval on which the validation loss is measured.
VALIDATION_PAIRS = 1024
#: Cells of a snapshot, at most, by which it is measured on how many of them predictions rest.
MOST = 2000
#: Steps from snapshot to snapshot on that way, as predictions take them.
STEPS = 6
#: Noise of a path, at most, relative to the spread of the cells.
MOST_NOISE = 1e6


@dataclass(frozen=True, eq=False)
class PreparedFit:
    """Fit that has not been trained: networks, their dynamics, and pairs.

    `parts` are the cells to train on and, if there are any, those held back, of which `held` are
    pairs to validate on; a checkpoint must agree on `facts`.
    """

    method: Parts
    parts: Sequence[TimeCourse]
    units: Units
    networks: nn.ModuleDict
    dynamics: Dynamics
    sampler: PairSampler
    held: Pairs | None
    facts: dict[str, Any]
    upfront: float

    def account(self, history: History) -> None:
        """Write into `history` how coupling went."""
        health, facts = self.sampler.health, history.coupling
        history.seconds += self.upfront
        history.spend({"data": self.upfront - health.waited, "coupling": health.waited})
        facts.clear()
        facts |= health.summary() | {"unused": self.sampler.unused}
        if self.method.coupling.sigma is not None:  # plans blur with it
            facts["blurred_by_sigma"] = 1.0
        if facts["mean_cost"] > 0:
            noise = self.method.path.diffusion**2 * self.parts[0].dim * self.units.span / 2
            facts["noise_share"] = noise / facts["mean_cost"]
        if self.dynamics.growth is not None:
            both = self.method.both_sides
            facts["effective_share"] = effective_share(self.dynamics, self.parts[0], both)


def effective_share(dynamics: Dynamics, course: TimeCourse, both_sides: bool) -> float:
    """Return the effective share of its cells that a snapshot's prediction rests on, at worst.

    Cells are carried to the next snapshot, or half-way from `both_sides`. A share is relative to
    what it was at the start, and 0 where the dynamics cannot be followed.
    """
    shares = []
    for before, after in course.steps:
        middle, step = (before.time + after.time) / 2, (after.time - before.time) / STEPS
        ways = ((before, middle), (after, middle)) if both_sides else ((before, after.time),)
        for cells, time in ways:
            start = cells.subset(torch.arange(min(len(cells), MOST), device=cells.x.device))
            try:
                out = simulate(dynamics, start.x, [start.time, time], max_step=step)
            except IntegrationError:
                return 0.0
            log_mass = cast(Tensor, cast(Trajectory, out).log_mass)  # there is growth
            grown = log_mass[-1].double() + start.weights.log()
            shares.append(float(1 / grown.softmax(0).square().sum()) / start.effective)
    return min(shares)


def prepare(
    method: Parts, course: TimeCourse, options: FitOptions, *, preprocessing: Preprocessing | None
) -> PreparedFit:
    """Return networks, dynamics and pairs of a fit, ready to train, all from the options' seed."""
    model = course if preprocessing is None else course.map(preprocessing.apply)
    parts: tuple[TimeCourse, ...] = (model,)
    if not method.coupling.knows_rows:  # a precomputed plan knows cells by their rows
        parts = split_in_canonical_order(model, method.training.validation, options.seed)
    parts = tuple(to_device(part, options) for part in parts)
    own, units = method.scaled_to(*parts), Units.of(*parts)
    check_units(own, units, parts[0].snapshots[0].x.dtype)
    say_what_strata_lack(parts[0], show=options.progress)
    facts = fingerprint(own, parts, options)
    options.group.require_same(facts, "group")
    x = parts[0].snapshots[0].x
    say(f"{method.name}: training on {x.device}, {x.dtype}", show=options.progress)
    networks = build_networks(own, units, seed=options.seed).to(x)
    dynamics = assemble(own, networks, parts[0].times)
    health = CouplingHealth()
    reference = Reference.of(*parts) if own.path.needs_reference else None

    def sampled(part: TimeCourse, batching: Batching, stream: int, workers: int) -> PairSampler:
        rates, bends = None, own.path.needs_rates and not own.path.needs_reference
        if bends and len(part) > 2:  # of two snapshots, splines are straight
            rates = spline_rates(part, own.coupling)
        how = batching, stream_seed(options.seed, 0, stream), health, rates, reference
        return PairSampler(part, own.coupling, *how, workers, options.group)

    # Threads that couple have the cores left over; a large network on the CPU leaves one at most.
    busy = x.device.type == "cpu" and not own.net.small
    workers = min(spare_cores(), 1) if busy else spare_cores()
    sampler, held = sampled(parts[0], own.batching, 11, workers), None
    if len(parts) > 1:
        batching = Batching(VALIDATION_PAIRS, own.batching.block_size, 1, prefetch=False)
        held = sampled(parts[1], batching, 13, 1).batch(0)
    made = own, parts, units, networks, dynamics, sampler, held, facts
    return PreparedFit(*made, upfront=health.waited)


def say_what_strata_lack(course: TimeCourse, *, show: bool | None) -> None:
    """Say what is done about time points that strata lack: warn where cells are left out."""
    text, left_out = told(course)
    if left_out:
        _checks.warn(text)
    elif text:
        say(text, show=show)


def check_units(method: Parts, units: Units, dtype: torch.dtype) -> None:
    """Refuse cells, times and noise whose squares and ratios `dtype` cannot hold, far or near."""
    most = torch.finfo(dtype).max ** 0.4
    told = {
        "cells": ("a spread", units.scale),
        "times": ("a mean interval", units.span),
        "cells and times": ("a unit of speed", units.speed),
    }
    for name, (what, value) in told.items():
        if not 1 / most <= value <= most:
            got, expected = f"{what} of {value:.3g}", f"one that {dtype} can square"
            remedy = "Rescale: take another unit, in which it is near 1."
            raise ValueError(_checks.message(name, got, expected, remedy))
    sigma = max(getattr(part, "sigma", None) or 0.0 for part in (method.path, method.coupling))
    if sigma > MOST_NOISE * units.scale:
        got = f"{sigma:.3g}, where cells are spread by {units.scale:.3g}"
        remedy = "Rescale the cells, or take less noise."
        expected = f"at most {MOST_NOISE:g} times that"
        raise ValueError(_checks.message("sigma", got, expected, remedy))


def fingerprint(method: Parts, parts: Sequence[TimeCourse], options: FitOptions) -> dict[str, Any]:
    """Return the facts that a checkpoint of a fit of `method` to `parts` must agree on."""
    known = parts[0].conditions
    return {
        "method": method.facts(),
        "plan": method.coupling.digest,
        "steps": options.steps,
        "seed": options.seed,
        "times": list(parts[0].times),
        "cells": [len(s) for part in parts for s in part.snapshots],
        "training cells": digest(*parts),
        **({} if known is None else {"conditions": known.facts()}),
    }
