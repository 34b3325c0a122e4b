"""Couplings: rules that pair the cells of two snapshots. One file holds one coupling."""

from cellflow import _doors
from cellflow.couplings.coupling import COUPLINGS, Coupling, as_coupling
from cellflow.couplings.entropic import Entropic
from cellflow.couplings.exact import Exact
from cellflow.couplings.geodesic import Geodesic
from cellflow.couplings.given import Given
from cellflow.couplings.hierarchical import Hierarchical
from cellflow.couplings.independent import Independent
from cellflow.couplings.partial import Partial
from cellflow.couplings.reach import Reach
from cellflow.couplings.unbalanced import Unbalanced

__all__ = [
    "COUPLINGS",
    "Coupling",
    "Entropic",
    "Exact",
    "Geodesic",
    "Given",
    "Hierarchical",
    "Independent",
    "Partial",
    "Reach",
    "Unbalanced",
    "as_coupling",
]

_doors.guard(__name__)
