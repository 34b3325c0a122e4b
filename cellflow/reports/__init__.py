"""Reports of fits, as pages to hand on, and what to cite."""

from cellflow import _doors
from cellflow.reports.cite import cite
from cellflow.reports.report import report

__all__ = ["cite", "report"]


_doors.guard(__name__)
