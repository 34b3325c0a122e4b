"""What a coupling is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cellflow.plans import Plan
from cellflow.timecourse import Snapshot

#: Any callable will do; the members of :mod:`cellflow.couplings` are frozen dataclasses.
Coupling: TypeAlias = Callable[[Snapshot, Snapshot], Plan]
