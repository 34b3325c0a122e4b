"""Hold-out evaluation: is the model better than doing nothing clever?"""

from cellflow.evaluate.holdout import HoldoutProtocol, holdout
from cellflow.evaluate.scorer import METRICS, Scorer
from cellflow.evaluate.sigma import sigma_sweep, without_times
from cellflow.evaluate.table import YARDSTICKS, HoldoutTable, Row, SigmaRow, SigmaSweep, Verdict

__all__ = [
    "METRICS",
    "YARDSTICKS",
    "HoldoutTable",
    "HoldoutProtocol",
    "Row",
    "Scorer",
    "SigmaRow",
    "SigmaSweep",
    "Verdict",
    "holdout",
    "sigma_sweep",
    "without_times",
]
