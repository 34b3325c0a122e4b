"""Networks for velocity, score and growth."""

from cellflow import _doors
from cellflow.networks.encoder import SetEncoder
from cellflow.networks.mlp import MLP, MLPConfig
from cellflow.networks.network import NETWORKS, Network, NetworkConfig, Units
from cellflow.networks.own import NetworkLike, OwnNetworks, as_network_config

__all__ = [
    "MLP",
    "NETWORKS",
    "MLPConfig",
    "Network",
    "NetworkConfig",
    "NetworkLike",
    "OwnNetworks",
    "SetEncoder",
    "Units",
    "as_network_config",
]

_doors.guard(__name__)
