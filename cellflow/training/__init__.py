"""Training: options, preparation, the trainer and its loop."""

from cellflow.training.options import Checkpointing, FitOptions
from cellflow.training.trainer import History, Trainer, Training

__all__ = ["Checkpointing", "FitOptions", "History", "Trainer", "Training"]
