"""What every method offers, whatever it is made of."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from cellflow._typing import Rng
from cellflow.fits.fit import Fit
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.loop import Checkpointing


@runtime_checkable
class Method(Protocol):
    """Hyperparameters with a name, which can be fitted to a time course."""

    @property
    def name(self) -> str:
        """What tables and files call this method."""
        ...

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
        course, steps, generator, preprocessing, device, dtype, checkpointing, progress
            As in :meth:`cellflow.methods.FlowMatching.fit`.
        """
        ...
