"""Hold-out evaluation: is the model better than doing nothing clever?"""

from cellflow import _doors
from cellflow.evaluate.choose import Auto, Choice, choose, family
from cellflow.evaluate.holdout import Chooser, HoldoutProtocol, holdout
from cellflow.evaluate.scorer import METRICS, Scorer
from cellflow.evaluate.sigma import sigma_sweep, without_times
from cellflow.evaluate.table import YARDSTICKS, HoldoutTable, Row, SigmaRow, SigmaSweep, Verdict

__all__ = ["METRICS", "YARDSTICKS", "Auto", "Choice", "Chooser", "HoldoutTable", "HoldoutProtocol"]
__all__ += ["Row", "Scorer", "SigmaRow", "SigmaSweep", "Verdict", "choose", "family", "holdout"]
__all__ += ["sigma_sweep", "without_times"]

_doors.guard(__name__)
