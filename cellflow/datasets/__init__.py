"""Data sets: small real ones that ship inside the package, and files of papers, downloaded.

`SOURCES.md` beside this file says where each comes from, and under which licence.
"""

from cellflow import _doors
from cellflow.datasets.embryoid import embryoid
from cellflow.datasets.larry import larry
from cellflow.datasets.published import citeseq, embryoid_full, multiome
from cellflow.datasets.reprogramming import reprogramming

__all__ = ["embryoid", "reprogramming", "larry", "embryoid_full", "citeseq", "multiome"]

_doors.guard(__name__)
