"""How many processes train together, and who starts them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellflow import _checks
from cellflow._process_group import ProcessGroup, here

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: How the processes of a node are started: the names that Lightning gives them.
STRATEGIES = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_notebook": "fork"}


@dataclass(frozen=True)
class Devices:
    """How many processes train together, and who starts them.

    Parameters
    ----------
    devices
        Processes on each node, one for each GPU or for each part of the cores. When omitted, as
        many as ``torchrun`` has started, or one; 1 for this process alone, whatever others there
        are.
    num_nodes
        Nodes. More than one need ``torchrun`` or ``srun`` to start the processes.
    strategy
        ``"ddp_spawn"`` starts processes that do nothing else, ``"ddp"`` runs the whole script once
        for each, ``"ddp_notebook"`` forks, which a notebook needs. ``"auto"`` takes the processes
        that there are, else the last in a notebook and the first elsewhere.

    Raises
    ------
    ValueError
        If a number is not positive or `strategy` is unknown.
    """

    devices: int | None = None
    num_nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        if self.devices is not None:
            _checks.count(self.devices, "devices")
        _checks.count(self.num_nodes, "num_nodes")
        _checks.choice(self.strategy, ["auto", *STRATEGIES], "strategy")

    @property
    def total(self) -> int:
        """Processes in all, where nobody else has started them."""
        return (self.devices or 1) * self.num_nodes


def join(devices: Devices | None = None, *, kind: str = "cpu") -> ProcessGroup:
    """Return this process's place among those that `torchrun` or `srun` has started, or alone.

    Parameters
    ----------
    devices
        What was asked for.
    kind
        Type of the devices: ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ValueError
        If others were asked for than there are.
    """
    devices = devices or Devices()
    if devices.devices is not None and devices.total == 1:
        return ProcessGroup()
    ranks = here()
    if ranks.world > 1:
        refuse_other(devices, ranks.world)
    elif started_outside(devices):
        fabric_for(devices, "ddp", kind).launch(lambda _: None)
        ranks = here()
    return ranks


def fabric_for(devices: Devices, strategy: str, kind: str) -> Fabric:
    """Return what starts and connects processes.

    Parameters
    ----------
    devices
        How many.
    strategy
        One of :data:`STRATEGIES`.
    kind
        Type of the devices.

    Raises
    ------
    ImportError
        If Lightning Fabric is not installed.
    """
    try:
        from cellflow.several.fabric import make_fabric
    except ImportError as error:
        raise ImportError(
            f"Several devices need Lightning Fabric ({error}): pip install lightning-fabric."
        ) from error
    return make_fabric(devices, strategy, kind)


def started_outside(devices: Devices) -> bool:
    """Return whether `torchrun` or `srun` has started the processes, as many as `devices` say."""
    if "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        refuse_other(devices, int(os.environ["WORLD_SIZE"]))
        return True
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1 or devices.devices is None:
        return False
    from lightning_fabric.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.detect()


def refuse_other(devices: Devices, world: int) -> None:
    """Refuse `devices` if they are not `world` in all, as many as there are."""
    asked = None if devices.devices is None else devices.devices * devices.num_nodes
    if asked not in (None, world):
        got = f"{devices.devices} on each of {devices.num_nodes} nodes"
        remedy = "Leave it out: what has started the processes knows."
        raise ValueError(_checks.message("devices", got, f"{world} processes in all", remedy))


def choose_strategy(devices: Devices) -> str:
    """Return how to start processes from here.

    Parameters
    ----------
    devices
        What was asked for.

    Raises
    ------
    ValueError
        If there are several nodes, which cannot be reached from here.
    """
    by_hand = "MASTER_ADDR" in os.environ and "NODE_RANK" in os.environ
    if devices.num_nodes > 1 and not by_hand:
        remedy = "Start the script on every node with torchrun or srun."
        raise ValueError(_checks.message("num_nodes", devices.num_nodes, "1 from here", remedy))
    if devices.strategy != "auto":
        return devices.strategy
    return "ddp_notebook" if hasattr(sys, "ps1") else "ddp_spawn"
