"""The table that a hold-out evaluation fills, and what may be concluded from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from cellflow import _checks

#: Rows of the table that no model made, in the order they are printed.
YARDSTICKS = ("previous", "next", "pooled", "ot_midpoint", "floor")


@dataclass(frozen=True)
class Row:
    """One number of a hold-out table.

    Parameters
    ----------
    held_out
        Time point that was left out, in the user's unit.
    method
        Name of the method, or of a yardstick.
    seed
        Seed of the fit, or of the yardstick's random choice.
    metric
        Name of the metric.
    value
        Distance between predicted and true cells, in the coordinates of the evaluation.
    n_pred, n_true
        Numbers of cells compared.
    """

    held_out: float
    method: str
    seed: int
    metric: str
    value: float
    n_pred: int
    n_true: int


@dataclass(frozen=True)
class Verdict:
    """Whether a model is better than a yardstick at one time point.

    Parameters
    ----------
    held_out, method, yardstick, metric
        What is compared.
    difference
        Model minus yardstick; negative is better.
    standard_error
        Of the difference: spread over seeds, and over random halves of the held-out cells.
    verdict
        ``"better"``, ``"worse"``, or ``"undecided"`` within twice the standard error.
    """

    held_out: float
    method: str
    yardstick: str
    metric: str
    difference: float
    standard_error: float
    verdict: str


@dataclass(frozen=True)
class HoldoutTable:
    """Rows of a hold-out evaluation.

    Parameters
    ----------
    rows
        One for each time point, method, seed and metric.
    unit
        Unit of the time points, singular.
    """

    rows: tuple[Row, ...]
    unit: str = "day"

    def values(self, held_out: float, method: str, metric: str) -> list[float]:
        """Values of `metric` for `method` at the time point `held_out`, over seeds."""
        key = (held_out, method, metric)
        return [r.value for r in self.rows if (r.held_out, r.method, r.metric) == key]

    @property
    def held_out(self) -> list[float]:
        """Time points that were left out, in order."""
        return sorted({r.held_out for r in self.rows})

    @property
    def models(self) -> list[str]:
        """Names of the methods that are not yardsticks."""
        return [m for m in dict.fromkeys(r.method for r in self.rows) if m not in YARDSTICKS]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(dict.fromkeys(r.metric for r in self.rows))

    def verdicts(self, metric: str = "w1") -> list[Verdict]:
        """Compare each model with each yardstick at each time point, by `metric`."""
        _checks.choice(metric, self.metrics, "metric")
        return [
            self._verdict(time, model, yardstick, metric)
            for time in self.held_out
            for model in self.models
            for yardstick in YARDSTICKS[:-1]
        ]

    def _verdict(self, time: float, model: str, yardstick: str, metric: str) -> Verdict:
        ours, theirs = self.values(time, model, metric), self.values(time, yardstick, metric)
        difference = fmean(ours) - fmean(theirs)
        noise = deviation(self.values(time, "floor", metric))
        error = math.sqrt(deviation(ours) ** 2 / len(ours) + noise**2)
        better = "better" if difference < 0 else "worse"
        verdict = better if abs(difference) > 2 * error and len(ours) > 1 else "undecided"
        return Verdict(time, model, yardstick, metric, difference, error, verdict)

    def __str__(self) -> str:
        names = [*self.models, *YARDSTICKS]
        width = max(map(len, names)) + 2
        out = []
        for metric in self.metrics:
            head = "".join(f"{f'{self.unit} {t:g}':>18}" for t in self.held_out)
            out.append(f"{metric:<{width}}{head}{'mean':>10}")
            for name in names:
                cells = [self.values(t, name, metric) for t in self.held_out]
                text = "".join(f"{fmean(v):>10.3f} ± {deviation(v):<5.3f}" for v in cells)
                out.append(f"{name:<{width}}{text}{fmean([fmean(v) for v in cells]):>10.3f}")
            out.append("")
        return "\n".join(out + self._sentences())

    def _sentences(self) -> list[str]:
        metric = self.metrics[0]
        verdicts = self.verdicts(metric)
        out = []
        for model in self.models:
            for yardstick in YARDSTICKS[:-1]:
                found = [v for v in verdicts if (v.method, v.yardstick) == (model, yardstick)]
                count = {
                    w: sum(v.verdict == w for v in found) for w in ("better", "undecided", "worse")
                }
                text = ", ".join(f"{w} at {n}" for w, n in count.items() if n)
                out.append(f"{model} against {yardstick} ({metric}): {text} of {len(found)}")
        return out

    def to_json(self, path: str | Path) -> None:
        """Write the rows as a JSON list to the file `path`."""
        text = json.dumps([asdict(r) for r in self.rows], indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0
