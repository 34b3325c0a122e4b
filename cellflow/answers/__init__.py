"""What a fit says: fates, labels of a place, composition."""

from __future__ import annotations

from cellflow.answers import composition
from cellflow.answers.fates import Fates, fates_by_flow, fates_by_plans, origins_by_plans
from cellflow.answers.labels import labels_at, shares_near

__all__ = [
    "Fates",
    "composition",
    "fates_by_flow",
    "fates_by_plans",
    "labels_at",
    "origins_by_plans",
    "shares_near",
]
