"""From an AnnData to a time course: reading times, choosing a representation."""

from cellflow.pp.components import pca
from cellflow.pp.courses import CourseIndex, course
from cellflow.pp.growth import RateCurve, growth_rates
from cellflow.pp.suggest_sigma import suggest_sigma
from cellflow.pp.times import TimeTable, parse_times

__all__ = [
    "CourseIndex",
    "RateCurve",
    "TimeTable",
    "course",
    "growth_rates",
    "parse_times",
    "pca",
    "suggest_sigma",
]
