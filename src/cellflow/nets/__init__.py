"""Networks for velocity, score and growth."""

from cellflow.nets.adamw import AdamW
from cellflow.nets.flat import Flat
from cellflow.nets.mlp import MLP, MLPConfig, Units

__all__ = ["MLP", "AdamW", "Flat", "MLPConfig", "Units"]
