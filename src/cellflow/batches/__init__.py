"""Batches of paired cells for training."""

from cellflow.batches.batching import Batching
from cellflow.batches.health import CouplingHealth
from cellflow.batches.sampler import PairSampler

__all__ = ["Batching", "CouplingHealth", "PairSampler"]
