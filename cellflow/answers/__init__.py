"""What a fit says: fates, labels, composition, trends, drivers, perturbation, uncertainty."""

from cellflow import _doors
from cellflow.answers import composition
from cellflow.answers.agreement import Agreement, agreement
from cellflow.answers.comparison import Comparison, compare
from cellflow.answers.densities import BatchFree, Outliers, batch_free, outliers
from cellflow.answers.drivers import Correlations, FateGradient, correlations, fate_gradient
from cellflow.answers.fates import Fates, fates_by_flow, fates_by_plans, origins_by_plans
from cellflow.answers.forecast import ForecastError, forecast_errors, held
from cellflow.answers.influence import Influence, influence
from cellflow.answers.labels import labels_at, shares_near
from cellflow.answers.perturbation import Effects, effect_on_fates
from cellflow.answers.sinks import sinks
from cellflow.answers.transitions import Moves, transitions
from cellflow.answers.trends import Trends, trends
from cellflow.answers.uncertainty import Disagreement, disagreement

__all__ = ["Agreement", "BatchFree", "Comparison", "Correlations", "Disagreement", "Effects"]
__all__ += ["FateGradient", "Fates", "ForecastError", "Moves", "Influence", "Outliers", "Trends"]
__all__ += ["agreement", "batch_free", "compare", "composition", "correlations", "disagreement"]
__all__ += ["effect_on_fates", "fate_gradient", "fates_by_flow", "fates_by_plans"]
__all__ += ["forecast_errors", "held", "influence", "labels_at", "origins_by_plans", "outliers"]
__all__ += ["shares_near", "sinks", "transitions", "trends"]

_doors.guard(__name__)
