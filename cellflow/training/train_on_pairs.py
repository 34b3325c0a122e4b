"""Training of networks on pairs of cells, wherever the pairs come from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from cellflow import objectives
from cellflow._random import stream_seed
from cellflow._threads import one_thread
from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.networks import Network, NetworkConfig, Units
from cellflow.networks.fast import written_out
from cellflow.paths import TIMESTEPS, Pairs, PathPoint
from cellflow.training.loop import run
from cellflow.training.networks import Parts, PredictedField
from cellflow.training.options import FitOptions
from cellflow.training.trainer import History, Trainer


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
) -> History:
    """Train, in place, the `networks` that `dynamics` are made of; return what happened.

    `pairs` gives batch number ``k`` as a pure function of ``k``, the same in all processes of a
    group; `held` are pairs to validate on, or None for the training loss. The seed of `options`
    decides where on its path each pair is met.
    """
    device = next(networks.parameters()).device
    noise = torch.Generator(device=device)
    group = options.group

    def meet(batch: Pairs, step: int, stream: int) -> PathPoint:
        noise.manual_seed(stream_seed(options.seed, step, stream))
        # Drawn for all processes, of which each takes its part: their number changes nothing.
        return drawn(method, batch, noise, part=(group.rank, group.world))

    terms = objective(method, networks, dynamics, units=units)
    trainer = Trainer(networks, terms, units.speed**2, method.training, options.steps, group)
    with threads_for(method.net, device), written_out():
        return run(
            trainer,
            lambda step: meet(pairs(step), step, 12),
            None if held is None else meet(held, 0, 14),
            fingerprint=fingerprint,
            options=options,
        )


def drawn(
    method: Parts, pairs: Pairs, noise: torch.Generator, *, part: tuple[int, int] = (0, 1)
) -> PathPoint:
    """Return where on their paths `pairs` are met: see :meth:`cellflow.paths.Path.draw`.

    With `noise` as generator, the `part` asked for, and the times of the `method`.
    """
    times = method.timesteps
    times = TIMESTEPS[times] if isinstance(times, str) else times
    return method.path.draw(pairs, noise, part=part, times=times, per_pair=method.times_per_pair)


def threads_for(net: NetworkConfig, device: torch.device) -> AbstractContextManager[None]:
    """Return where to train `net` on `device`: a small one loses time by sharing a step."""
    return one_thread() if device.type == "cpu" and net.small else nullcontext()


def objective(
    method: Parts, networks: nn.ModuleDict, dynamics: Dynamics, *, units: Units
) -> Callable[[PathPoint], dict[str, Tensor]]:
    """Return the loss terms of `method`, all in squared velocities of `units`."""

    def terms(batch: PathPoint) -> dict[str, Tensor]:
        if isinstance(dynamics.velocity, PredictedField):
            found, mix = dynamics.velocity.predicted(batch.t, batch.x)
            return objectives.prediction_matching(found, batch, mix, predict=method.predict)
        if method.score:  # the noise's part of the velocity is taken from the score
            out = objectives.mean_velocity_matching(networks["velocity"], batch)
            out |= objectives.score_matching(dynamics, batch, unit=units.speed**2)
        elif networks["velocity"].average:
            out = objectives.average_velocity_matching(cast(Network, networks["velocity"]), batch)
        else:
            out = objectives.velocity_matching(dynamics, batch)
        if method.growth:
            out |= objectives.growth_matching(dynamics, batch, unit=units.speed**2 * units.span**2)
        return out

    return terms
