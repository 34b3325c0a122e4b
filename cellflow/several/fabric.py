"""Lightning Fabric, which starts processes and connects them; slow to import."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from cellflow.several.devices import STRATEGIES, Devices

#: How long a rank may be silent. One that ends is noticed at once.
_PATIENCE = timedelta(minutes=30)


class Quiet(DDPStrategy):
    """Lightning's data-parallel strategy, without its banner."""

    def setup_environment(self) -> None:
        """Connect the ranks."""
        log = logging.getLogger("lightning_fabric")
        level = log.level
        log.setLevel(logging.WARNING)
        try:
            super().setup_environment()
        finally:
            log.setLevel(level)


def make_fabric(devices: Devices, strategy: str, accelerator: str) -> Fabric:
    """Return a Fabric that is ready to launch.

    Parameters
    ----------
    devices
        How many processes; those that there are, where that is left open.
    strategy
        One of :data:`~cellflow.several.devices.STRATEGIES`.
    accelerator
        ``"cpu"`` or ``"cuda"``.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    each = devices.devices or int(os.environ.get("LOCAL_WORLD_SIZE", world // devices.num_nodes))
    nodes = devices.num_nodes if devices.devices else world // each
    start: Any = STRATEGIES[strategy]
    return Fabric(
        accelerator=accelerator,
        devices=each,
        num_nodes=nodes,
        strategy=Quiet(start_method=start, timeout=_PATIENCE),
    )
