"""Couplings: who is paired with whom between two snapshots."""

from __future__ import annotations

from cellflow.couplings.exact import Exact
from cellflow.couplings.independent import Independent
from cellflow.couplings.plans import Coupling, DensePlan, PairPlan, Plan, ProductPlan

__all__ = [
    "Coupling",
    "DensePlan",
    "Exact",
    "Independent",
    "PairPlan",
    "Plan",
    "ProductPlan",
]
