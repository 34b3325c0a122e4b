"""Networks for velocity, score and growth."""

from cellflow.networks.mlp import MLP, MLPConfig
from cellflow.networks.network import NETWORKS, Network, NetworkConfig, Units

__all__ = ["MLP", "NETWORKS", "MLPConfig", "Network", "NetworkConfig", "Units"]
