"""Named loss terms; the sum of an objective's terms is the loss."""

from cellflow.objectives.growth import growth_matching
from cellflow.objectives.prediction import prediction_matching
from cellflow.objectives.score import score_matching
from cellflow.objectives.velocity import mean_velocity_matching, velocity_matching

__all__ = [
    "growth_matching",
    "mean_velocity_matching",
    "prediction_matching",
    "score_matching",
    "velocity_matching",
]
