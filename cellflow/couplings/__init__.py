"""Couplings: who is paired with whom between two snapshots."""

from cellflow.couplings.coupling import Coupling
from cellflow.couplings.entropic import Entropic
from cellflow.couplings.exact import Exact
from cellflow.couplings.geodesic import Geodesic
from cellflow.couplings.given import Given
from cellflow.couplings.hierarchical import Hierarchical
from cellflow.couplings.independent import Independent
from cellflow.couplings.partial import Partial
from cellflow.couplings.unbalanced import Unbalanced

__all__ = [
    "Coupling",
    "Entropic",
    "Exact",
    "Geodesic",
    "Given",
    "Hierarchical",
    "Independent",
    "Partial",
    "Unbalanced",
]
