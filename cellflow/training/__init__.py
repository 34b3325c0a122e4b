"""Training: settings, preparation, the trainer and its loop."""

from cellflow.training.loop import Checkpointing
from cellflow.training.trainer import History, Trainer, Training

__all__ = ["Checkpointing", "History", "Trainer", "Training"]
