"""Training: options, preparation, the trainer and its loop."""

from cellflow import _doors
from cellflow.training.options import Checkpointing, FitOptions, StepReport
from cellflow.training.trainer import History, Trainer, Training

__all__ = ["Checkpointing", "FitOptions", "History", "StepReport", "Trainer", "Training"]

_doors.guard(__name__)
