"""Named loss terms; the sum of an objective's terms is the loss."""

from cellflow.objectives.velocity import velocity_matching

__all__ = ["velocity_matching"]
