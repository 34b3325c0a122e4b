"""Batches of paired cells for training."""

from cellflow.batches.health import CouplingHealth
from cellflow.batches.sampler import Batching, PairSampler

__all__ = ["Batching", "CouplingHealth", "PairSampler"]
