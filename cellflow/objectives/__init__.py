"""Named loss terms; the sum of an objective's terms is the loss."""

from cellflow.objectives.average import average_velocity_matching
from cellflow.objectives.growth import growth_matching
from cellflow.objectives.score import score_matching
from cellflow.objectives.velocity import (
    mean_velocity_matching,
    prediction_matching,
    velocity_matching,
)

__all__ = [
    "average_velocity_matching",
    "growth_matching",
    "mean_velocity_matching",
    "prediction_matching",
    "score_matching",
    "velocity_matching",
]
