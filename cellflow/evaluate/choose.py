"""Choose a method by days that are left out of those it may see."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow.evaluate.holdout import Chooser, HoldoutProtocol, holdout
from cellflow.evaluate.scorer import METRICS, as_methods
from cellflow.evaluate.table import HoldoutTable, deviation
from cellflow.fits import Fit
from cellflow.methods import MMFM, OTCFM, Method, ReachFM
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training import FitOptions


def family() -> tuple[Method, ...]:
    """Return the methods that are chosen from where none are given; the first is the default.

    Growth and death within reach, transport alone, and transport along curves through all days.
    """
    return ReachFM(), OTCFM(), MMFM()


@dataclass(frozen=True)
class Choice:
    """What :func:`choose` chose.

    The `method` to fit; the `default`, the first candidate, which stays unless another one is
    better beyond doubt; the `reason`, a sentence: what was chosen, by how much, with what error,
    over how many time points; and the `table` of the scores of all candidates, without rows where
    nothing could be compared.
    """

    method: Method
    default: Method
    reason: str
    table: HoldoutTable

    def __str__(self) -> str:
        return f"{self.table}\n\n{self.reason}" if self.table.rows else self.reason


def choose(
    course: TimeCourse,
    candidates: Sequence[Method] | None = None,
    *,
    steps: int | None = None,
    seeds: int | Sequence[int] = 2,
    metric: str = "w1",
    protocol: HoldoutProtocol = HoldoutProtocol(),
    workers: int | None = None,
    progress: bool | None = None,
    ranks: ProcessGroup | None = None,
) -> Choice:
    r"""Choose the method that best predicts time points left out of `course`.

    Each interior time point is left out in turn, as by :func:`holdout`. For each of them, the
    logarithm of a candidate's score over the default's is averaged over seeds, which both share.
    The candidate of least mean over time points is chosen if the mean lies below zero by more than
    two standard errors, which are taken from the spread over time points. Otherwise the default
    stays; so it does, and nothing is trained, where fewer than two time points can be left out.

    Parameters
    ----------
    course
        Snapshots to choose by, without the days that a final figure is to be scored on.
    candidates, metric
        Methods of distinct names, the default first, those of :func:`family` when omitted; and
        ``"w1"``, ``"w2"`` or ``"energy"``.
    steps
        Training steps of each fit; as many as the default takes when omitted.
    seeds, protocol, workers, progress, ranks
        As in :func:`holdout`.
    """
    default, *others = methods = as_methods(family() if candidates is None else candidates)
    _checks.choice(metric, METRICS, "metric")
    folds = len(course) - 2
    if folds < 2 or not others:
        few = f"time points that can be left out: {max(folds, 0)}, and a comparison takes two"
        why = few if others else "there is no other candidate"
        table = HoldoutTable((), course.unit)
        return Choice(default, default, f"The default {default.name!r} stays ({why}).", table)
    how: dict[str, Any] = {"workers": workers, "progress": progress, "ranks": ranks}
    how["steps"] = default.default_steps if steps is None else steps
    table = holdout(course, methods, seeds=seeds, protocol=protocol, metrics=(metric,), **how)
    ratios = {m.name: _log_ratios(table, m.name, default.name, metric) for m in others}
    best = min(others, key=lambda m: fmean(ratios[m.name]))
    mean = fmean(ratios[best.name])
    error = deviation(ratios[best.name]) / math.sqrt(folds)
    sure = mean < -2 * error
    by = (
        f"its {metric} is {abs(math.expm1(mean)):.2%} {'lower' if mean < 0 else 'higher'}, with a "
        f"standard error of {math.exp(mean) * error:.2%} over {folds} time points left out"
    )
    said = f"{best.name!r} is chosen over the default {default.name!r}: {by}."
    stays = f"The default {default.name!r} stays: the best other is {best.name!r}, but {by}."
    return Choice(best if sure else default, default, said if sure else stays, table)


def _log_ratios(table: HoldoutTable, name: str, default: str, metric: str) -> list[float]:
    """Logarithm of the scores of `name` over those of `default`: for each time point, a mean."""
    tiny = sys.float_info.min  # a prediction may be exact
    logs = [
        [[math.log(max(v, tiny)) for v in table.values(t, m, metric)] for m in (name, default)]
        for t in table.held_out
    ]
    return [fmean(ours) - fmean(theirs) for ours, theirs in logs]


@dataclass(frozen=True)
class Auto(Method, Chooser):
    """The method that :func:`choose` chooses on the course that it is fitted to.

    Of `candidates`, by `seeds` and `metric` as in :func:`choose`; tables call it by its `name`. A
    hold-out repeats the choice for every time point, on the others. It does not depend on the seed
    of the fit. A fit is one of the method chosen, and ``fit.origin["choice"]`` holds the reason.
    """

    candidates: tuple[Method, ...] = field(default_factory=family)
    seeds: int | tuple[int, ...] = 2
    metric: str = "w1"
    name: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(as_methods(self.candidates)))

    @property
    def knows_rows(self) -> bool:
        """Whether that is so of a candidate; see :attr:`Method.knows_rows`."""
        return any(method.knows_rows for method in self.candidates)

    def chosen(
        self,
        course: TimeCourse,
        protocol: HoldoutProtocol,
        *,
        steps: int | None,
        workers: int | None = None,
        progress: bool | None = None,
        ranks: ProcessGroup | None = None,
    ) -> tuple[Method, str]:
        """Return the method chosen on `course`, and the reason; see :meth:`Chooser.chosen`."""
        how: dict[str, Any] = {"seeds": self.seeds, "metric": self.metric, "protocol": protocol}
        how |= {"steps": steps, "workers": workers, "progress": progress, "ranks": ranks}
        choice = choose(course, self.candidates, **how)
        return choice.method, choice.reason

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        """Choose on `course`, then fit; see :meth:`Method.fit_with`."""
        model = course if preprocessing is None else course.map(preprocessing.apply)
        steps, group, protocol = options.steps, options.group, HoldoutProtocol()
        method, reason = self.chosen(
            model, protocol, steps=steps, progress=options.progress, ranks=group
        )
        fit = method.fit_with(course, options, preprocessing)
        fit.origin["choice"] = reason
        return fit
