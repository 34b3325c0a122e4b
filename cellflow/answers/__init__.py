"""What a fit says: fates, labels, composition, trends, drivers, perturbation, uncertainty."""

from cellflow import _doors
from cellflow.answers import composition
from cellflow.answers.agreement import Agreement, agreement
from cellflow.answers.comparison import Comparison, compare
from cellflow.answers.densities import BatchFree, Outliers, batch_free, outliers
from cellflow.answers.drivers import Correlations, FateGradient, correlations, fate_gradient
from cellflow.answers.fates import Fates, fates_by_flow, fates_by_plans, origins_by_plans
from cellflow.answers.forecast import ForecastError, forecast_errors, held, recurrent
from cellflow.answers.gene_sets import AllSets, GeneSets, GFlowNet, Sampler, gene_sets
from cellflow.answers.influence import Influence, influence
from cellflow.answers.labels import labels_at, shares_near
from cellflow.answers.perturbation import Effects, effect_on_fates
from cellflow.answers.sinks import sinks
from cellflow.answers.transitions import Moves, chances, transitions
from cellflow.answers.trends import Trends, trends
from cellflow.answers.uncertainty import Disagreement, disagreement

__all__ = [
    "Agreement",
    "AllSets",
    "BatchFree",
    "Comparison",
    "Correlations",
    "Disagreement",
    "Effects",
    "FateGradient",
    "Fates",
    "ForecastError",
    "GFlowNet",
    "GeneSets",
    "Influence",
    "Moves",
    "Outliers",
    "Sampler",
    "Trends",
    "agreement",
    "batch_free",
    "chances",
    "compare",
    "composition",
    "correlations",
    "disagreement",
    "effect_on_fates",
    "fate_gradient",
    "fates_by_flow",
    "fates_by_plans",
    "forecast_errors",
    "gene_sets",
    "held",
    "influence",
    "labels_at",
    "origins_by_plans",
    "outliers",
    "recurrent",
    "shares_near",
    "sinks",
    "transitions",
    "trends",
]

_doors.guard(__name__)
