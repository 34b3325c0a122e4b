"""Networks for velocity, score and growth."""

from cellflow.nets.mlp import MLP, MLPConfig, Units

__all__ = ["MLP", "MLPConfig", "Units"]
