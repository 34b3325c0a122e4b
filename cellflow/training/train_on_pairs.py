"""Train the networks of a method on pairs of cells, wherever the pairs come from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from cellflow._process_group import ProcessGroup
from cellflow._random import stream_seed
from cellflow._threads import one_thread, spare_cores
from cellflow._typing import Tensor
from cellflow.dynamics import Dynamics
from cellflow.networks import NetworkConfig, Units
from cellflow.networks.fast import written_out
from cellflow.objectives import (
    growth_matching,
    mean_velocity_matching,
    score_matching,
    velocity_matching,
)
from cellflow.paths import Pairs, PathPoint
from cellflow.training.loop import Checkpointing, train
from cellflow.training.trainer import History, Trainer


def learn(
    method: Any,
    networks: nn.ModuleDict,
    dynamics: Dynamics,
    *,
    pairs: Callable[[int], Pairs],
    held: Pairs | None,
    units: Units,
    steps: int,
    seed: int,
    fingerprint: dict[str, Any],
    checkpointing: Checkpointing,
    progress: bool,
    ranks: ProcessGroup | None = None,
) -> History:
    """Train, in place, the networks that `dynamics` are made of.

    Parameters
    ----------
    method
        Its path is met, and its parts are learned.
    networks
        What :func:`~cellflow.training.networks.build_networks` returned.
    dynamics
        What :func:`~cellflow.training.networks.assemble` made of them.
    pairs
        Batch number ``k`` as a pure function of ``k``.
    held
        Pairs to validate on, or None for the training loss.
    units
        Of the networks.
    steps
        Budget of steps.
    seed
        Decides where on its path each pair is met.
    fingerprint
        Facts that a checkpoint must agree on.
    checkpointing
        File to write and resume from.
    progress
        Whether to show a bar on standard error.
    ranks
        Who trains together; all must give the same `pairs`.

    Returns
    -------
    What happened.
    """
    ranks = ranks or ProcessGroup()
    device = next(networks.parameters()).device
    noise = torch.Generator(device=device)

    def meet(batch: Pairs, step: int, stream: int) -> PathPoint:
        noise.manual_seed(stream_seed(seed, step, stream))
        # Drawn for all ranks, of which each takes its part: their number changes nothing.
        return method.path.draw(batch, noise, part=(ranks.rank, ranks.world))

    trainer = Trainer(
        networks,
        objective(method, networks, dynamics, units=units),
        unit=units.speed**2,
        training=method.training,
        steps=steps,
        ranks=ranks,
    )
    with threads_for(method.net, device), written_out():
        return train(
            trainer,
            lambda step: meet(pairs(step), step, 12),
            None if held is None else meet(held, 0, 14),
            checkpointing=checkpointing,
            fingerprint=fingerprint,
            progress=progress,
        )


def workers_for(net: NetworkConfig, device: torch.device) -> int:
    """Return how many threads may couple while `net` trains on `device`: the cores left over."""
    large = device.type == "cpu" and not net.small
    spare = spare_cores()
    return min(spare, 1) if large else spare  # a large network on the CPU has all cores busy


def threads_for(net: NetworkConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Return where to train `net` on `device`: a small one loses time by sharing a step."""
    small = device.type == "cpu" and net.small
    return one_thread() if small else nullcontext()


def objective(
    method: Any, networks: nn.ModuleDict, dynamics: Dynamics, *, units: Units
) -> Callable[[PathPoint], dict[str, Tensor]]:
    """Return the loss terms of `method`, all in squared velocities of `units`."""
    split = method.score and not method.direct_velocity

    def terms(batch: PathPoint) -> dict[str, Tensor]:
        if split:
            out = mean_velocity_matching(networks["velocity"], batch)
        else:
            out = velocity_matching(dynamics, batch)
        if method.score:
            out |= score_matching(dynamics, batch, unit=units.speed**2)
        if method.growth:
            out |= growth_matching(dynamics, batch, unit=units.speed**2 * units.span**2)
        return out

    return terms
