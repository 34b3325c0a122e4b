"""Plans: what a coupling returns, and what can be asked of it."""

from cellflow import _doors
from cellflow.plans.forms import DensePlan, PairPlan, PotentialPlan, ProductPlan
from cellflow.plans.plan import CHILDLESS, DENSE_LIMIT, Plan
from cellflow.plans.sparsify import sparsify
from cellflow.plans.transitions import Transitions

__all__ = [
    "CHILDLESS",
    "DENSE_LIMIT",
    "DensePlan",
    "PairPlan",
    "Plan",
    "PotentialPlan",
    "ProductPlan",
    "Transitions",
    "sparsify",
]

_doors.guard(__name__)
