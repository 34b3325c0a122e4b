"""Options of a fit: everything beside the method and the cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from pathlib import Path as FilePath

import torch

from cellflow import _checks
from cellflow._files import obstacle
from cellflow._process_group import ProcessGroup
from cellflow._random import draw_seed
from cellflow._typing import Rng
from cellflow.logging import shown


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a run is written down.

    The file `path` is written, and resumed from if it exists; None for no checkpoints. So many
    steps, `every`, lie between two writes; it is also written when the run ends, in whatever way.
    """

    path: str | FilePath | None = None
    every: int = 1000

    def __post_init__(self) -> None:
        _checks.count(self.every, "every")
        if self.path is None:
            return
        path = FilePath(self.path)
        why = obstacle(path)
        if why is None and path.exists() and not path.is_file():
            why = "a folder" if path.is_dir() else "a device or a pipe"
        if why is not None:
            got = f"{str(path)!r} ({why})"
            raise ValueError(_checks.message("checkpoint", got, "a file that can be written"))


@dataclass(frozen=True)
class StepReport:
    """What is known after a step of training, for a logger.

    After so many steps, `step`, the `loss` of the last batch is in squared data units per squared
    unit of time, and `learning_rate` that of this step. There is a `validation_loss` where it was
    measured after this step, and a number of the fit, `member`, where several are fitted to one
    course.
    """

    step: int
    loss: float
    learning_rate: float
    validation_loss: float | None = None
    member: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class FitOptions:
    """Options of a fit, checked once and handed on whole.

    Parameters
    ----------
    steps
        Budget of training steps.
    generator
        Seed or generator that `seed` is drawn from.
    seed
        Number that everything random follows from; drawn from `generator` when omitted.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``; that of the course when omitted.
    dtype
        ``torch.float32`` or ``torch.float64``, of cells and networks; that of the course when
        omitted.
    checkpointing
        File to write and resume from.
    progress
        Whether to show a bar and tell the device on standard error; by default as
        ``cf.settings.verbosity`` says.
    on_step
        Called with a :class:`StepReport` after every step, by the main process.
    group
        Processes that train together.
    """

    steps: int = 3000
    generator: InitVar[Rng] = 0
    seed: int = -1
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    checkpointing: Checkpointing = Checkpointing()
    progress: bool | None = None
    on_step: Callable[[StepReport], object] | None = None
    group: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self, generator: Rng) -> None:
        _checks.count(self.steps, "steps")
        object.__setattr__(self, "progress", shown(self.progress))
        if self.dtype not in (None, torch.float32, torch.float64):
            # Cells would be cut down to whole numbers; of half precision, gradients would not do.
            expected = "a floating type to train in: torch.float32 or torch.float64"
            raise TypeError(_checks.message("dtype", repr(self.dtype), expected))
        if self.device is not None:
            object.__setattr__(self, "device", _checks.as_device(self.device, torch.device("cpu")))
        if _checks.count(self.seed, "seed", low=-1) < 0:
            object.__setattr__(self, "seed", draw_seed(generator, self.group))
