"""Training of networks on pairs of cells, wherever the pairs come from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from cellflow import objectives
from cellflow._random import stream_seed
from cellflow._threads import one_thread
from cellflow._typing import Tensor
from cellflow.conditions import Conditions, Context
from cellflow.dynamics import Dynamics
from cellflow.networks import Network, NetworkConfig, Units
from cellflow.networks.fast import written_out
from cellflow.paths import TIMESTEPS, Pairs, PathPoint
from cellflow.training.loop import run
from cellflow.training.networks import BridgeVelocity, Parts, PredictedField, given
from cellflow.training.options import FitOptions
from cellflow.training.trainer import History, Trainer

#: Share of the pairs of whose nuisance covariates, such as a donor, networks are not told.
UNTOLD = 0.5


def train_on_pairs(
    method: Parts,
    networks: nn.ModuleDict,
    dynamics: Dynamics,
    *,
    pairs: Callable[[int], Pairs],
    held: Pairs | None,
    units: Units,
    options: FitOptions,
    fingerprint: dict[str, Any],
    conditions: Conditions | None = None,
) -> History:
    """Train, in place, the `networks` that `dynamics` are made of; return what happened.

    `pairs` gives batch number ``k`` as a pure function of ``k``, the same in all processes of a
    group; `held` are pairs to validate on, or None for the training loss. The seed of `options`
    decides where on its path each pair is met, and of which the networks are not told all of their
    `conditions`.
    """
    device = next(networks.parameters()).device
    noise = torch.Generator(device=device)
    group = options.group

    def meet(batch: Pairs, step: int, stream: int, told: Conditions | None = None) -> PathPoint:
        noise.manual_seed(stream_seed(options.seed, step, stream))
        # Drawn for all processes, of which each takes its part: their number changes nothing.
        return drawn(method, batch, noise, part=(group.rank, group.world), dropping=told)

    like = next(networks.parameters())
    terms = objective(method, dynamics, units=units, context=context_of(conditions, like))
    trainer = Trainer(networks, terms, units.speed**2, method.training, options.steps, group)
    with threads_for(method.net, device), written_out():
        return run(
            trainer,
            lambda step: meet(pairs(step), step, 12, conditions),
            None if held is None else meet(held, 0, 14),
            fingerprint=fingerprint,
            options=options,
        )


def context_of(conditions: Conditions | None, like: Tensor) -> Context | None:
    """Return what networks such as `like` are told in training; None without `conditions`.

    Of each condition; of each without its nuisance covariates, if it has any; and of none.
    """
    if conditions is None:
        return None
    values, untold = conditions.values, conditions.nuisance
    kept = [{k: v for k, v in value.items() if k not in untold} for value in values if untold]
    return conditions.context(*values, *kept, {}).to(like)


def drawn(
    method: Parts,
    pairs: Pairs,
    noise: torch.Generator,
    *,
    part: tuple[int, int] = (0, 1),
    dropping: Conditions | None = None,
) -> PathPoint:
    """Return where on their paths `pairs` are met: see :meth:`cellflow.paths.Path.draw`.

    With `noise` as generator, the `part` asked for, and the times of the `method`. Their conditions
    are rows of :func:`context_of`: those of the pairs or, `dropping` some of the conditions'
    covariates at random, rows that tell less.
    """
    if dropping is not None:
        row, n, rate = cast(Tensor, pairs.condition), len(dropping), method.training.label_dropout
        chance = torch.rand(row.shape, generator=noise, device=noise.device)
        if dropping.nuisance:
            row = row + n * (chance < rate + (1 - rate) * UNTOLD)
        row = row.masked_fill(chance < rate, 2 * n if dropping.nuisance else n)
        pairs = replace(pairs, condition=row)
    times = method.timesteps
    times = TIMESTEPS[times] if isinstance(times, str) else times
    return method.path.draw(pairs, noise, part=part, times=times, per_pair=method.times_per_pair)


def threads_for(net: NetworkConfig, device: torch.device) -> AbstractContextManager[None]:
    """Return where to train `net` on `device`: a small one loses time by sharing a step."""
    return one_thread() if device.type == "cpu" and net.small else nullcontext()


def objective(
    method: Parts, dynamics: Dynamics, *, units: Units, context: Context | None = None
) -> Callable[[PathPoint], dict[str, Tensor]]:
    """Return the loss terms of `method`, all in squared velocities of `units`.

    The networks of `dynamics` are told those rows of `context` that the batch names.
    """

    def terms(batch: PathPoint) -> dict[str, Tensor]:
        now = dynamics
        if context is not None:
            now = given(dynamics, replace(context, rows=batch.condition))
        field = now.velocity
        if isinstance(field, PredictedField):
            found, mix = field.predicted(batch.t, batch.x)
            return objectives.prediction_matching(found, batch, mix, predict=method.predict)
        if isinstance(field, BridgeVelocity):  # the noise's part is taken from the score
            out = objectives.mean_velocity_matching(field.mean, batch)
            out |= objectives.score_matching(now, batch, unit=units.speed**2)
        elif cast(Network, field).average:
            out = objectives.average_velocity_matching(cast(Network, field), batch)
        else:
            out = objectives.velocity_matching(now, batch)
        if method.growth:
            out |= objectives.growth_matching(now, batch, unit=units.speed**2 * units.span**2)
        return out

    return terms
