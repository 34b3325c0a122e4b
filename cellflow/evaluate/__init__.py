"""Hold-out evaluation: is the model better than doing nothing clever?"""

from cellflow.evaluate.holdout import holdout
from cellflow.evaluate.scorer import METRICS, Scorer
from cellflow.evaluate.sigma import sigma_sweep
from cellflow.evaluate.table import (
    YARDSTICKS,
    HoldoutTable,
    Row,
    SigmaRow,
    SigmaSweep,
    Verdict,
)

__all__ = [
    "METRICS",
    "YARDSTICKS",
    "HoldoutTable",
    "Row",
    "Scorer",
    "SigmaRow",
    "SigmaSweep",
    "Verdict",
    "holdout",
    "sigma_sweep",
]
