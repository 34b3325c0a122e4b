"""Hold-out evaluation: is the model better than doing nothing clever?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch
from tqdm import tqdm

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Tensor
from cellflow.couplings import Exact
from cellflow.methods import FlowMatching
from cellflow.metrics import energy_distance, wasserstein1, wasserstein2
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.timecourse import TimeCourse

METRICS: dict[str, Callable[..., float]] = {
    "w1": wasserstein1,
    "w2": wasserstein2,
    "energy": energy_distance,
}
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
    """

    rows: tuple[Row, ...]

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
        noise = _std(self.values(time, "floor", metric))
        error = math.sqrt(_std(ours) ** 2 / len(ours) + noise**2)
        better = "better" if difference < 0 else "worse"
        verdict = better if abs(difference) > 2 * error and len(ours) > 1 else "undecided"
        return Verdict(time, model, yardstick, metric, difference, error, verdict)

    def __str__(self) -> str:
        names = [*self.models, *YARDSTICKS]
        width = max(map(len, names)) + 2
        out = []
        for metric in self.metrics:
            head = "".join(f"{f'day {t:g}':>18}" for t in self.held_out)
            out.append(f"{metric:<{width}}{head}{'mean':>10}")
            for name in names:
                cells = [self.values(t, name, metric) for t in self.held_out]
                text = "".join(f"{fmean(v):>10.3f} ± {_std(v):<5.3f}" for v in cells)
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


def holdout(
    course: TimeCourse,
    methods: FlowMatching | Sequence[FlowMatching],
    *,
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    time: str = "physical",
    n_components: int | None = None,
    whiten: bool = False,
    preprocess_on: str = "all",
    metrics: Sequence[str] = ("w1", "w2", "energy"),
    progress: bool = True,
) -> HoldoutTable:
    """Leave out each interior time point in turn, and predict it from the one before.

    For every interior time point the methods are trained on all others; then the cells of the
    previous time point are pushed to it and compared with the cells that were really there.
    Beside them stand four predictions that need no model — the cells of the time point before
    and after, both pooled, and their exact optimal-transport interpolation — and the floor:
    the distance between two random halves of the held-out cells, below which nothing is visible.

    Parameters
    ----------
    course
        At least three snapshots.
    methods
        One or several methods.
    steps
        Training steps of each fit.
    seeds
        Number of seeds (0, 1, …), or the seeds.
    time
        ``"physical"`` for the course's own times, ``"index"`` for 0, 1, 2, ….
    n_components
        Principal components to rotate to first, when the course holds expression.
    whiten
        Whether to scale each dimension to unit standard deviation.
    preprocess_on
        ``"all"`` fits components and scales on all cells (the papers' protocol), ``"train"``
        without the held-out ones.
    metrics
        Any of ``"w1"``, ``"w2"``, ``"energy"``; the first one decides the verdicts.
    progress
        Whether to show bars on standard error.

    Returns
    -------
    HoldoutTable
        The rows; print it, or ask for its verdicts.

    Raises
    ------
    ValueError
        If there are fewer than three snapshots or an option is unknown.
    """
    _checks.choice(time, ("physical", "index"), "time")
    _checks.choice(preprocess_on, ("all", "train"), "preprocess_on")
    metrics = [_checks.choice(m, METRICS, "metrics") for m in metrics]
    methods = [methods] if isinstance(methods, FlowMatching) else list(methods)
    seeds = list(range(_checks.count(seeds, "seeds"))) if isinstance(seeds, int) else list(seeds)
    if len(course) < 3:
        remedy = "Only a time point between two others can be held out."
        raise ValueError(_checks.message("course", f"{len(course)} time points", "3", remedy))
    times = course.times
    clock = course if time == "physical" else course.retimed(range(len(course)))
    shared = _preprocess(clock, n_components, whiten) if preprocess_on == "all" else None
    rows: list[Row] = []
    folds = range(1, len(course) - 1)
    with tqdm(total=len(folds) * (1 + len(methods) * len(seeds)), disable=not progress) as bar:
        for k in folds:
            bar.set_description(f"held out {times[k]:g}")
            prep = shared or _preprocess(clock.without(k), n_components, whiten)
            fold = clock.map(prep.apply) if prep is not None else clock
            score = _Scorer(times[k], fold.snapshots[k].x, metrics)
            rows += score.yardsticks(fold, k, seeds)
            bar.update()
            for method in methods:
                for seed in seeds:
                    fit = method.fit(fold.without(k), steps=steps, generator=seed, progress=False)
                    start, end = fold.snapshots[k - 1 : k + 1]
                    x = fit.simulate(start.x, [start.time, end.time]).final
                    rows += score(method.name, seed, x)
                    bar.update()
    return HoldoutTable(tuple(rows))


def _preprocess(course: TimeCourse, n_components: int | None, whiten: bool) -> Preprocessing | None:
    if n_components is None and not whiten:
        return None
    return fit_preprocessing(course.x, n_components=n_components, whiten=whiten)


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Compares predictions with the cells of one held-out time point."""

    held_out: float
    truth: Tensor
    metrics: Sequence[str]

    def __call__(self, method: str, seed: int, x: Tensor, truth: Tensor | None = None) -> list[Row]:
        truth = self.truth if truth is None else truth
        return [
            Row(self.held_out, method, seed, m, METRICS[m](x, truth), len(x), len(truth))
            for m in self.metrics
        ]

    def yardsticks(self, course: TimeCourse, k: int, seeds: Sequence[int]) -> Iterator[Row]:
        """Predictions that need no model, and the floor."""
        before, after = course.snapshots[k - 1], course.snapshots[k + 1]
        yield from self("previous", seeds[0], before.x)
        yield from self("next", seeds[0], after.x)
        yield from self("pooled", seeds[0], torch.cat([before.x, after.x]))
        plan = Exact()(before, after)
        share = (course.times[k] - before.time) / (after.time - before.time)
        rows, cols = plan.sample(len(before), stream_seed(seeds[0], k, 20))
        yield from self("ot_midpoint", seeds[0], torch.lerp(before.x[rows], after.x[cols], share))
        for seed in seeds:
            generator = torch.Generator().manual_seed(stream_seed(seed, k, 21))
            order = torch.randperm(len(self.truth), generator=generator).to(self.truth.device)
            half = len(order) // 2
            left, right = self.truth[order[:half]], self.truth[order[half:]]
            yield from self("floor", seed, left, right)


def _std(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0
