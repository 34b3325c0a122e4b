"""What a fit says: fates, labels of a place, composition, trends, drivers, perturbation."""

from __future__ import annotations

from cellflow.answers import composition
from cellflow.answers.drivers import Correlations, FateGradient, correlations, fate_gradient
from cellflow.answers.fates import Fates, fates_by_flow, fates_by_plans, origins_by_plans
from cellflow.answers.labels import labels_at, shares_near
from cellflow.answers.perturbation import Effects, effect_on_fates
from cellflow.answers.trends import Trends, trends

__all__ = [
    "Correlations",
    "Effects",
    "FateGradient",
    "Fates",
    "Trends",
    "composition",
    "correlations",
    "effect_on_fates",
    "fate_gradient",
    "fates_by_flow",
    "fates_by_plans",
    "labels_at",
    "origins_by_plans",
    "shares_near",
    "trends",
]
