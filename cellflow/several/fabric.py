"""Lightning Fabric, which starts processes and connects them; slow to import."""

from __future__ import annotations

import logging
from datetime import timedelta

from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy


class Quiet(DDPStrategy):
    """Lightning's data-parallel strategy, without its banner."""

    def setup_environment(self) -> None:
        """Connect the processes."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        super().setup_environment()


def make_fabric(processes: int, accelerator: str, timeout: timedelta) -> Fabric:
    """Return what starts `processes` on ``"cpu"`` or ``"cuda"``, silent for at most `timeout`."""
    strategy = Quiet(start_method="spawn", timeout=timeout)
    return Fabric(accelerator=accelerator, devices=processes, strategy=strategy)
