"""Couplings: who is paired with whom between two snapshots."""

from __future__ import annotations

from cellflow.couplings.chains import chain_rates
from cellflow.couplings.entropic import Entropic
from cellflow.couplings.exact import Exact
from cellflow.couplings.geodesic import Geodesic
from cellflow.couplings.given import Given
from cellflow.couplings.hierarchical import Hierarchical
from cellflow.couplings.independent import Independent
from cellflow.couplings.partial import Partial
from cellflow.couplings.plans import Coupling, DensePlan, PairPlan, Plan, ProductPlan
from cellflow.couplings.potentials import PotentialPlan
from cellflow.couplings.sparse import as_pairs
from cellflow.couplings.transitions import Transitions
from cellflow.couplings.unbalanced import Unbalanced

__all__ = [
    "Coupling",
    "DensePlan",
    "Entropic",
    "Exact",
    "Geodesic",
    "Given",
    "Hierarchical",
    "Independent",
    "PairPlan",
    "Partial",
    "Plan",
    "PotentialPlan",
    "ProductPlan",
    "Transitions",
    "Unbalanced",
    "as_pairs",
    "chain_rates",
]
