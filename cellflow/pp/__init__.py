"""From an AnnData to a time course: reading times, choosing a representation."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cellflow import _doors
from cellflow.pp.check import CourseCheck, check
from cellflow.pp.components import pca
from cellflow.pp.growth import RateCurve, growth_rates
from cellflow.pp.reading import CourseIndex, course
from cellflow.pp.times import TimeTable, parse_times

__all__ = [
    "CourseCheck",
    "CourseIndex",
    "RateCurve",
    "TimeTable",
    "check",
    "course",
    "growth_rates",
    "parse_times",
    "pca",
    "suggest_sigma",
]

_doors.guard(__name__)


def __getattr__(name: str) -> Any:
    if name == "suggest_sigma":  # it trains networks, so it stands above; its name is kept here
        return import_module("cellflow.tl.evaluation").suggest_sigma
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
