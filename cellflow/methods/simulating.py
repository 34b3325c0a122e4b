"""Methods that simulate the field while they learn it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from tqdm import tqdm

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.batches import CouplingHealth, PairSampler
from cellflow.couplings import Independent
from cellflow.fits.fit import Fit
from cellflow.networks import Units
from cellflow.paths import Pairs
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import canonical, refuse_conditions, to_device
from cellflow.training.loop import run
from cellflow.training.networks import Parts, assemble, build_networks
from cellflow.training.options import FitOptions
from cellflow.training.prepare import check_units, fingerprint
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class Shots:
    """Cells at both ends of every interval, in turn, of a `step` of training."""

    pairs: Pairs
    step: int
    share: float = 1.0


def fit_by_simulating(
    parts: Parts,
    course: TimeCourse,
    options: FitOptions,
    *,
    preprocessing: Preprocessing | None,
    begin: Callable[..., tuple[Callable[[Shots], dict[str, Tensor]], float]],
) -> Fit:
    """Fit a method, `parts`, to `course` as :meth:`Method.fit_with` does, in this process alone.

    It holds no cells back, and its field begins at rest. With `options` and `preprocessing` of
    that method; ``begin(velocity, model, options=, health=)`` returns the loss terms of the
    velocity on the cells of the course in model coordinates, and their unit.
    """
    refuse_conditions(course, parts.name)
    if options.group.world > 1:
        remedy = "Its steps move cells, from snapshot to snapshot."
        raise ValueError(_checks.message("group", options.group.world, "1", remedy))
    model = course if preprocessing is None else course.map(preprocessing.apply)
    model = to_device(model if parts.coupling.knows_rows else canonical(model), options)
    units = Units.of(model)
    x = model.snapshots[0].x
    check_units(parts, units, x.dtype)
    networks = build_networks(parts, units, seed=options.seed).to(x)
    *_, weight, bias = networks["velocity"].parameters()
    for parameter in (weight, bias):  # at rest, from where the slower motion is found
        nn.init.zeros_(parameter)
    dynamics = assemble(parts, networks, model.times)
    if options.progress:
        tqdm.write(f"{parts.name}: training on {x.device}, {x.dtype}", file=sys.stderr)
    # Cells are drawn as for pairs; what pairs them, if anything, is where they move to.
    drawn = stream_seed(options.seed, 0, 11)
    sampler = PairSampler(model, Independent(), parts.batching, drawn, CouplingHealth())
    health = CouplingHealth()
    terms, unit = begin(dynamics.velocity, model, options=options, health=health)
    trainer = Trainer(networks, terms, unit, parts.training, options.steps)
    try:
        with threads_for(parts.net, x.device):
            history = run(
                trainer,
                lambda step: Shots(sampler.batch(step), step),
                None,
                fingerprint=fingerprint(parts, [model], options),
                options=options,
            )
    finally:
        sampler.close()
    told = health if health.plans else sampler.health
    history.coupling = told.summary() | {"unused": sampler.unused}
    return Fit(dynamics, parts, course, networks, preprocessing, history)
