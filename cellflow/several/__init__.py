"""Several fits, or several processes for one."""

from cellflow import _doors
from cellflow.several.launch import fit_on, join_process_group
from cellflow.several.members import fit_members

__all__ = ["fit_members", "fit_on", "join_process_group"]

_doors.guard(__name__)
