"""Batches of paired cells for training."""

from cellflow import _doors
from cellflow.batches.pools import Batching
from cellflow.batches.reference import Reference
from cellflow.batches.sampler import PairSampler
from cellflow.batches.spline_rates import spline_rates
from cellflow.batches.statistics import CouplingHealth

__all__ = ["Batching", "CouplingHealth", "PairSampler", "Reference", "spline_rates"]

_doors.guard(__name__)
