"""From an AnnData to a time course: reading times, choosing a representation."""

from cellflow.pp.courses import CourseIndex, course
from cellflow.pp.suggest_sigma import suggest_sigma
from cellflow.pp.times import TimeTable, parse_times

__all__ = ["CourseIndex", "TimeTable", "course", "parse_times", "suggest_sigma"]
