"""Networks for velocity, score and growth."""

from cellflow.networks.mlp import MLP, MLPConfig, Units

__all__ = ["MLP", "MLPConfig", "Units"]
