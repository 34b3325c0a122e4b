"""Tables of predictions of held-out time points: of methods, and of diffusions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cellflow import _checks, _html

if TYPE_CHECKING:
    import pandas as pd

#: Rows of the table that no model made, in the order they are printed.
YARDSTICKS = ("previous", "next", "pooled", "ot_midpoint", "uot_midpoint", "uot_clock", "floor")
#: The same of a table of conditions.
CONDITION_YARDSTICKS = ("control", "nearest", "additive", "all_conditions", "floor")
#: Metrics of which more is better.
HIGHER = ("r2",)
#: What tables call the least of the yardsticks that are predictions, at each time point its own.
BEST = "best_yardstick"
_SHOWN = {BEST: "best yardstick"}
#: Most cells of a bootstrap draw; of more cells, the spread over draws is scaled to their number.
DRAWN = 1000
#: Distances of which the finite sample rewards predictions that are too narrow.
_LOW = dict.fromkeys(("w1", "w2"), " (of few cells, it favours too little)")


@dataclass(frozen=True)
class Row:
    """One number of a hold-out table.

    The distance `value` by `metric`, in the coordinates of the evaluation, between the `n_pred`
    cells that `method` (or a yardstick) predicted at the time, or under the condition, `held_out`
    and the `n_true` cells observed. The `seed` is that of the fit, or of the yardstick's random
    choice.

    `bootstrap` holds the distance for bootstrap draws of both clouds, of as many cells as the
    cloud has but at most 1,000, with replacement. Draw i takes the same observed cells for
    all predictions of a time point, and the same positions of predictions of equally many cells,
    so that values of two rows are compared draw by draw. Only their spread means something: draws
    are smaller than the clouds, and their distances larger. Empty where none were made: for other
    metrics than the first, and the floor.
    """

    held_out: float | str
    method: str
    seed: int
    metric: str
    value: float
    n_pred: int
    n_true: int
    bootstrap: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bootstrap", tuple(self.bootstrap))  # a list, where from a file


@dataclass(frozen=True)
class Verdict:
    """Comparison of a model (`method`) with a `yardstick` at the time `held_out`, by a `metric`.

    The `difference` is model minus yardstick, so negative is better. Its `standard_error` comes
    from the spread of the model over seeds, divided by the root of their number, and from the
    choice of cells: the spread of the difference over bootstrap draws that both share (of clouds
    of more than 1,000 cells, times the root of the share that is drawn of the smallest).
    Without draws, the spread of the floor over random halves of the held-out cells takes its
    place, which two predictions do not share. The `verdict` is ``"better"``, ``"worse"``, or
    ``"undecided"``: within twice the standard error, or with one seed and no draws. With one seed,
    the error does not know how much fits differ.
    """

    held_out: float | str
    method: str
    yardstick: str
    metric: str
    difference: float
    standard_error: float
    verdict: str


@dataclass(frozen=True)
class SigmaRow:
    """One number of a sweep: the distance `value` by `metric` at the time `held_out`.

    For the diffusion `sigma`, in data units per square root of time; the `seed` is that of the
    cells drawn, of the noise, and of training.
    """

    sigma: float
    held_out: float
    seed: int
    metric: str
    value: float


R = TypeVar("R", Row, SigmaRow)


class Table(Generic[R]):
    """Rows with their time points and metrics."""

    rows: tuple[R, ...]

    @property
    def held_out(self) -> list[Any]:
        """Time points, or conditions, that were left out; times in order."""
        found = list(dict.fromkeys(r.held_out for r in self.rows))
        return found if any(isinstance(f, str) for f in found) else sorted(found)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(dict.fromkeys(r.metric for r in self.rows))

    def to_json(self, path: str | Path) -> None:
        """Write the table to the JSON file `path`."""
        Path(path).write_text(json.dumps(self._facts(), indent=1) + "\n", encoding="utf-8")

    def to_frame(self) -> pd.DataFrame:
        """Return a data frame of a line for each row, with its fields as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(r) for r in self.rows])

    def _facts(self) -> object:
        """Content of the file."""
        return [asdict(r) for r in self.rows]


@dataclass(frozen=True)
class HoldoutTable(Table[Row]):
    """Table of a hold-out evaluation: `rows`, one for each time point, method, seed and metric.

    The `unit` of the time points is singular.
    """

    rows: tuple[Row, ...]
    unit: str = "day"

    def values(self, held_out: float | str, method: str, metric: str) -> list[float]:
        """Values of `metric` for `method` at the time point `held_out`, over seeds.

        A `method` called ``"best_yardstick"`` is the yardstick of least mean, the floor apart.
        """
        return [r.value for r in self._rows(held_out, method, metric)]

    def _rows(self, held_out: float | str, method: str, metric: str) -> list[Row]:
        if method == BEST:
            means = {y: self.values(held_out, y, metric) for y in self.yardsticks}
            sign = -1 if metric in HIGHER else 1
            method = min((y for y in means if means[y]), key=lambda y: sign * fmean(means[y]))
        key = (held_out, method, metric)
        return [r for r in self.rows if (r.held_out, r.method, r.metric) == key]

    @property
    def models(self) -> list[str]:
        """Names of the methods that are not yardsticks."""
        known = (*YARDSTICKS, *CONDITION_YARDSTICKS)
        return [m for m in dict.fromkeys(r.method for r in self.rows) if m not in known]

    @property
    def yardsticks(self) -> list[str]:
        """Names of the yardsticks that are predictions: all but the floor."""
        found = {r.method for r in self.rows}
        return [y for y in (*YARDSTICKS[:-1], *CONDITION_YARDSTICKS[:-1]) if y in found]

    @property
    def _compared(self) -> list[str]:
        """What models are compared with: the yardsticks, and the best of them."""
        return [*self.yardsticks, BEST] if self.yardsticks else []

    def verdicts(self, metric: str = "w1") -> list[Verdict]:
        """Compare each model with each yardstick, and the best one, at each time, by `metric`."""
        _checks.choice(metric, self.metrics, "metric")
        return [
            self._verdict(time, model, yardstick, metric)
            for time in self.held_out
            for model in self.models
            for yardstick in self._compared
            if self._rows(time, yardstick, metric)
        ]

    def _verdict(self, time: float | str, model: str, yardstick: str, metric: str) -> Verdict:
        ours, theirs = (self._rows(time, name, metric) for name in (model, yardstick))
        values = [r.value for r in ours]
        difference = fmean(values) - fmean(r.value for r in theirs)
        drawn = all(len(r.bootstrap) > 1 for r in (*ours, *theirs))
        floor = self.values(time, "floor", metric)
        noise = _paired_error(ours, theirs) if drawn else deviation(floor)
        error = math.sqrt(deviation(values) ** 2 / len(values) + noise**2)
        better = "better" if (difference < 0) != (metric in HIGHER) else "worse"
        known = drawn or len(values) > 1
        verdict = better if known and abs(difference) > 2 * error else "undecided"
        return Verdict(time, model, yardstick, metric, difference, error, verdict)

    def __repr__(self) -> str:
        width = max(map(len, [*self.models, *self._compared, "floor"])) + 2
        out = []
        for metric in self.metrics:
            head, *rows = self.grid(metric)
            wide = max(18, *(len(text) + 2 for text in head[1:-1]))
            for name, *each, mean in (head, *rows):
                out.append(f"{name:<{width}}{''.join(f'{t:>{wide}}' for t in each)}{mean:>10}")
            out.append("")
        return "\n".join(out + self._sentences())

    def _repr_html_(self) -> str:
        grids = [self.grid(metric) for metric in self.metrics]
        tables = [_html.table(rows, head=head) for head, *rows in grids]
        return "".join(tables + [f"<p>{escape(text)}</p>" for text in self._sentences()])

    def grid(self, metric: str) -> list[list[str]]:
        """Return a head, and for each prediction its name, distances by `metric`, and their mean.

        Each is the mean over seeds, with its deviation.
        """
        heads = [t if isinstance(t, str) else f"{self.unit} {t:g}" for t in self.held_out]
        rows = [[metric, *heads, "mean"]]
        for name in (*self.models, *self._compared, "floor"):
            cells = [self.values(t, name, metric) for t in self.held_out]
            if any(cells):
                each = [f"{fmean(v):.3f} ± {deviation(v):<5.3f}" if v else "–" for v in cells]
                mean = fmean([fmean(v) for v in cells if v])
                rows.append([_SHOWN.get(name, name), *each, f"{mean:.3f}"])
        return rows

    def counts(self, model: str, yardstick: str) -> dict[str, int]:
        """How often a `model` is better and so on than a `yardstick`, by the first metric."""
        metric = self.metrics[0]
        times = [time for time in self.held_out if self._rows(time, yardstick, metric)]
        said = [self._verdict(time, model, yardstick, metric).verdict for time in times]
        return {word: said.count(word) for word in ("better", "undecided", "worse")}

    def _sentences(self) -> list[str]:
        out = [] if self.rows else ["no rows"]
        for model, yardstick in product(self.models, self._compared):
            count = self.counts(model, yardstick)
            text = ", ".join(f"{word} at {n}" for word, n in count.items() if n)
            against = f"{model} against {_SHOWN.get(yardstick, yardstick)} ({self.metrics[0]})"
            out += [f"{against}: {text} of {sum(count.values())}"] if text else []
        return out


@dataclass(frozen=True)
class SigmaSweep(Table[SigmaRow]):
    """Scores of diffusions, each predicting time points that were left out.

    There are `rows` for each diffusion, time point, seed and metric; none where no time point is
    interior. The data's own diffusion is `natural`
    (:func:`~cellflow.training.cells.natural_sigma`), and `default` what a fit takes when it is
    given none. The `metric` decides, the `unit` of the time points is singular, and `learned` says
    whether networks were trained.
    """

    rows: tuple[SigmaRow, ...]
    natural: float
    default: float
    metric: str = "energy"
    unit: str = "day"
    learned: bool = False

    @property
    def sigmas(self) -> list[float]:
        """Diffusions that were tried, increasing."""
        return sorted({r.sigma for r in self.rows})

    def curve(self, metric: str | None = None, *, held_out: float | None = None) -> list[float]:
        """Mean distance over seeds and time points, or of one `held_out`, for each of `sigmas`.

        By `metric`, or by the one that decides.
        """
        return [fmean(v) for v in self._by_seed(metric, held_out)]

    @property
    def best(self) -> float:
        """The diffusion of least mean distance; the default where nothing was left out."""
        return self.best_by(self.metric) if self.rows else self.default

    def best_by(self, metric: str) -> float:
        """Return the diffusion of least mean distance by `metric`."""
        return min(zip(self.curve(metric), self.sigmas, strict=True))[1]

    def errors(self, metric: str | None = None) -> list[float]:
        """Standard error of each diffusion's difference to the least of :meth:`curve`.

        Seeds are compared one by one. Each of them drew other cells, so their spread is the
        error itself, and is not divided by their number; 0 for a single seed. By `metric`, or by
        the one that decides.
        """
        values = self._by_seed(metric, None)
        least = min(values, key=fmean, default=[])
        return [deviation([a - b for a, b in zip(v, least, strict=True)]) for v in values]

    def span(self, metric: str | None = None) -> tuple[float, float]:
        """Least and largest diffusion that are not worse than the best by two standard errors.

        By `metric`, or by the one that decides; twice the default where nothing was left out.
        """
        if not self.rows:
            return self.default, self.default
        curve = self.curve(metric)
        tried = zip(self.sigmas, curve, self.errors(metric), strict=True)
        good = [s for s, value, error in tried if value - min(curve) <= 2 * error]
        return min(good), max(good)

    def __str__(self) -> str:
        if not self.rows:
            return "\n".join(self._sentences())
        errors = dict(zip(self.sigmas, self.errors(), strict=True))
        head = [f"{self.unit} {t:g}" for t in self.held_out]
        lines = [
            f"{'sigma':>10}{'/natural':>10}"
            + "".join(f"{name:>12}" for name in [*head, f"mean {self.metric}", "± to best"])
            + "".join(f"{m:>12}" for m in self.metrics if m != self.metric)
        ]
        each = [self.curve(held_out=t) for t in self.held_out]
        others = [self.curve(m) for m in self.metrics if m != self.metric]
        for k, sigma in enumerate(self.sigmas):
            numbers = [*(c[k] for c in each), self.curve()[k], errors[sigma]]
            numbers += [c[k] for c in others]
            mark = " <" if sigma == self.best else ""
            text = "".join(f"{v:>12.4g}" for v in numbers)
            lines.append(f"{sigma:>10.4g}{sigma / self.natural:>10.3g}{text}{mark}")
        return "\n".join([*lines, "", *self._sentences()])

    def _facts(self) -> object:
        return asdict(self)

    def _sentences(self) -> list[str]:
        """Conclusions, a line each."""
        per = f"data units per √{self.unit}"
        default = f"default {self.default:.4g} ({self.default / self.natural:.2g} × natural)"
        if not self.rows:
            return [
                f"sigma {self.best:.4g} {per}, the {default}: no time point lies between two "
                "others, so there is none to choose by."
            ]
        low, high = self.span()
        out = [
            f"best sigma {self.best:.4g} {per} ({self.best / self.natural:.2g} × natural); "
            f"{default}",
            f"not told apart from it: {low:.4g} to {high:.4g}",
        ]
        if low <= self.default <= high:
            out.append("The default is as good.")
        for other in self.metrics:
            if other != self.metric and self.best_by(other) != self.best:
                ends = self.span(other)
                text = f"by {other}: {self.best_by(other):.4g}, from {ends[0]:.4g} to {ends[1]:.4g}"
                out.append(text + _LOW.get(other, ""))
        edge = {self.sigmas[0]: "smallest", self.sigmas[-1]: "largest"}.get(self.best)
        if edge and len(self.sigmas) > 1:
            out.append(f"The best is the {edge} that was tried: the data may ask for more so.")
        return out

    def _by_seed(self, metric: str | None, held_out: float | None) -> list[list[float]]:
        """Means over time points, for each diffusion a list with one for each seed."""
        if not self.rows:
            return []
        name = self.metric if metric is None else _checks.choice(metric, self.metrics, "metric")
        groups: dict[float, dict[int, list[float]]] = {}
        for r in self.rows:
            if r.metric == name and held_out in (None, r.held_out):
                groups.setdefault(r.sigma, {}).setdefault(r.seed, []).append(r.value)
        return [[fmean(v) for v in groups[s].values()] for s in sorted(groups)]


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def _paired_error(ours: Sequence[Row], theirs: Sequence[Row]) -> float:
    """Standard error of the difference of means, from bootstrap draws that both share."""
    draws = ([r.bootstrap for r in rows] for rows in (ours, theirs))
    means = [[fmean(draw) for draw in zip(*each, strict=True)] for each in draws]
    cells = min(min(r.n_true, r.n_pred) for r in (*ours, *theirs))
    spread = deviation([a - b for a, b in zip(*means, strict=True)])
    return spread * math.sqrt(min(1.0, DRAWN / cells))
