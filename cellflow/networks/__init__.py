"""Networks for velocity, score and growth."""

from cellflow import _doors
from cellflow.networks.auto import Suggestion, suggested
from cellflow.networks.dit import DiTConfig
from cellflow.networks.encoder import SetEncoder
from cellflow.networks.mlp import MLP, MLPConfig
from cellflow.networks.mmdit import MMDiTConfig
from cellflow.networks.network import NETWORKS, Network, NetworkConfig, Units
from cellflow.networks.own import NetworkLike, OwnNetworks, as_network_config
from cellflow.networks.residual import ResidualConfig

__all__ = [
    "MLP",
    "NETWORKS",
    "DiTConfig",
    "MLPConfig",
    "MMDiTConfig",
    "Network",
    "NetworkConfig",
    "NetworkLike",
    "OwnNetworks",
    "ResidualConfig",
    "SetEncoder",
    "Suggestion",
    "Units",
    "as_network_config",
    "suggested",
]

_doors.guard(__name__)
