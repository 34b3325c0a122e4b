"""Leave a condition out, predict its cells from the control's, and say how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.conditions import Categorical, Condition, Conditions
from cellflow.evaluate.holdout import Job, Predictions, all_rows
from cellflow.evaluate.scorer import DRAWS, Scorer, as_methods, as_metrics, as_seeds
from cellflow.evaluate.table import CONDITION_YARDSTICKS, HoldoutTable, Row
from cellflow.methods import Method
from cellflow.metrics import energy_distance
from cellflow.timecourse import Snapshot, TimeCourse

#: Most cells of a condition that a prediction is compared with for its rank.
MOST = 500
#: Dimensions, those that change most, of which ``"r2"`` counts the mean changes.
MOST_CHANGED = 50


def holdout_conditions(
    course: TimeCourse,
    methods: Method | Sequence[Method],
    *,
    conditions: Sequence[Condition] | None = None,
    steps: int = 2000,
    seeds: int | Sequence[int] = 3,
    metrics: Sequence[str] = ("w1", "energy"),
    guidance: float | None = None,
    workers: int | None = None,
    progress: bool | None = None,
) -> HoldoutTable:
    r"""Leave out each condition in turn, and predict its last snapshot from the control's cells.

    The methods are trained without the condition's cells, whatever its nuisance covariates; then
    the cells that it starts from, the control's where it has none of its own, are carried under it
    to its last time. Beside them stand predictions that need no model: the ``control`` at that
    time, and the control's cells moved by a mean shift: that of the ``nearest`` conditions seen, by
    what is told of them; the ``additive`` one, the sum of those of the parts of a combination,
    where each was seen alone; and the mean shift of ``all_conditions``. The ``floor`` is the
    distance between two halves of the cells left out. By the first metric, all are scored against
    the same bootstrap draws, as in :func:`holdout`.

    Beside the `metrics` there are two more. ``"r2"`` is the share explained of the mean changes
    :math:`\Delta` from the control in the 50 dimensions that change most,
    :math:`1 - \sum_g (\hat\Delta_g - \Delta_g)^2 / \sum_g \Delta_g^2`: 1 at best, 0 for the
    control, and lower for what is worse than that. ``"rank"`` is the place of the condition among
    all when they are sorted by the energy distance of their cells from the prediction: 1 at best.

    Parameters
    ----------
    course
        Snapshots with conditions, of which one is the control.
    methods
        One or several methods, of distinct names.
    conditions
        Which to leave out, one at a time; when omitted, all but the control that cells were under
        after the start.
    steps, seeds, workers, progress
        As in :func:`holdout`.
    metrics
        As in :func:`holdout`; the first one decides the verdicts.
    guidance
        Strength of guidance of the predictions, each fit's evidence when omitted: see
        :meth:`cellflow.fits.Fit.given`.

    Returns
    -------
    A table whose time points are the conditions. A model that does not beat the additive yardstick
    is said not to.
    """
    metrics, methods, seeds = as_metrics(metrics), as_methods(methods), as_seeds(seeds)
    known = course.conditions
    if known is None or known.control is None:
        got = "none" if known is None else "conditions without a control"
        raise ValueError(_checks.message("course", got, "conditions, one of them the control"))
    _checks.count(steps, "steps")
    if guidance is not None:
        guidance = _checks.number(guidance, "guidance", low=0.0)
    task = _Task(course, {m.name: m for m in methods}, metrics, steps, known, guidance)
    asked = None if conditions is None else _checks.several(conditions, "conditions")
    folds = task.codes if asked is None else list(dict.fromkeys(map(task.code, asked)))
    if not folds:
        got, expected = "none that can be left out", "one at least with cells after the start"
        raise ValueError(_checks.message("conditions", got, expected))
    for code in folds:
        task.truth(code)
    how: dict[str, Any] = {"workers": workers, "progress": progress}
    rows = all_rows(_rows, task, folds, seeds=seeds, yardsticks=CONDITION_YARDSTICKS, **how)
    return HoldoutTable(rows, "condition")


@dataclass(frozen=True, eq=False)
class _Task(Predictions):
    """Cells, methods and settings of all predictions."""

    conditions: Conditions
    guidance: float | None

    def code(self, condition: Condition) -> int:
        """Return the code of a `condition` that can be left out; a text may tell all covariates."""
        known = self.conditions
        if isinstance(condition, str) and len(known.names) > 1:
            condition = known.read(condition)
        code = known.code(condition)
        if code is None or code == self.base(code):
            got, expected = repr(known.text(condition)), f"some of {', '.join(known.texts)}"
            raise ValueError(_checks.message("conditions", got, f"{expected}, not the control"))
        return code

    def base(self, code: int) -> int:
        """Return the code of the control of a condition."""
        return cast(int, self.conditions.control_of(self.conditions.values[code]))

    def cells(self, code: int, time: float | None = None) -> Snapshot | None:
        """Return the cells of a condition at a `time`, or at its last; None where it has none."""
        for s in reversed(self.course.snapshots):
            own = (s.condition == code).nonzero()[:, 0]  # type: ignore[union-attr] # they have
            if len(own) and time in (None, s.time):
                return replace(s.subset(own), condition=None)
        return None

    def truth(self, code: int) -> Snapshot:
        """Return the last cells of the condition `code`."""
        found = self.cells(code)
        if found is None or len(found) < 2 or found.time == self.course.times[0]:
            got = f"{self.conditions.texts[code]!r}, without two cells after the start"
            raise ValueError(_checks.message("conditions", got, "conditions that can be left out"))
        return found

    def control(self, code: int) -> Snapshot:
        """Return the control's cells when the last of a condition are, or else its last."""
        base = self.base(code)
        found = self.cells(base, self.truth(code).time) or self.cells(base)
        if found is None:
            raise ValueError(_checks.message("course", "no cell of the control", "some"))
        return found

    def alike(self, code: int) -> tuple[int, ...]:
        """Return the codes of a condition whatever its nuisance, such as that of all donors."""
        value, nuisance = self.conditions.values[code], self.conditions.nuisance
        return self.conditions.codes({k: v for k, v in value.items() if k not in nuisance})

    def without(self, code: int) -> TimeCourse:
        """Return the course without the cells of a condition, whatever its nuisance."""
        kept, left_out = [], torch.tensor(self.alike(code), device=self.course.x.device)
        for s in self.course.snapshots:
            rows = (~torch.isin(cast(Tensor, s.condition), left_out)).nonzero()[:, 0]
            kept += [s.subset(rows)] if len(rows) else []
        return replace(self.course, snapshots=tuple(kept))

    @cached_property
    def codes(self) -> list[int]:
        """Codes of conditions, controls apart, that some cells were under after the start."""
        last = {c: self.cells(c) for c in range(len(self.conditions)) if c != self.base(c)}
        return [c for c, s in last.items() if s is not None and s.time > self.course.times[0]]

    def shift(self, code: int) -> Tensor:
        """Return how the last mean of a condition differs from the control's then, ``(d,)``."""
        return _mean(self.truth(code)) - _mean(self.control(code))

    def yardstick(self, name: str, code: int) -> Snapshot | None:
        """Return a prediction of a condition without a model; None where it does not apply."""
        control, left_out = self.control(code), self.alike(code)
        seen = [c for c in self.codes if c not in left_out]
        if name == "control":
            return control
        if name == "additive":
            parts = singles(self.conditions, code, seen)
            shift = None if parts is None else sum(self.shift(c) for c in parts)
        else:
            near = nearest(self.conditions, code, seen) if name == "nearest" else seen
            shift = torch.stack([self.shift(c) for c in near]).mean(0) if near else None
        return None if shift is None else replace(control, x=control.x + shift)

    def changes(self, cells: Snapshot, code: int) -> float:
        """Return the explained share of the mean changes: see :func:`holdout_conditions`."""
        wanted, found = self.shift(code), _mean(cells) - _mean(self.control(code))
        top = wanted.abs().topk(min(MOST_CHANGED, len(wanted))).indices
        total = wanted[top].square().sum()
        error = (found - wanted)[top].square().sum()
        return float(1 - error / total) if total else float("-inf") if error else 1.0

    def rank(self, cells: Snapshot, code: int) -> float:
        """Return the place of a condition among all by their distance from `cells`."""
        some = cells.shuffled(MOST, torch.Generator().manual_seed(0))
        far = {}
        for other in (*self.codes, self.base(code)):
            theirs = self.cells(other)
            if theirs is not None:
                theirs = theirs.shuffled(MOST, torch.Generator().manual_seed(0))
                masses = {"x_mass": some.mass, "y_mass": theirs.mass}
                far[other] = energy_distance(some.x, theirs.x, unbiased=True, **masses)
        return 1.0 + sum(value < far[code] for value in far.values())


def nearest(conditions: Conditions, code: int, among: Sequence[int]) -> list[int]:
    """Return the codes `among` others of the conditions that are told most alike, all of a tie.

    The distance is that of their tokens, each set's sum of them.
    """
    context = conditions.context()
    told = (context.tokens * context.present[..., None]).sum(1)
    far = {c: float((told[c] - told[code]).norm()) for c in among}
    return [c for c, value in far.items() if value <= min(far.values()) + 1e-9]


def singles(conditions: Conditions, code: int, among: Sequence[int]) -> list[int] | None:
    """Return the codes `among` others of the parts of a combination, each seen alone.

    All else of them is as in the combination. None where a part was not seen alone, or the
    condition is no combination.
    """
    value, out = conditions.values[code], []
    known = {conditions.texts[c]: c for c in among}
    for covariate in conditions.covariates:
        if not isinstance(covariate, Categorical):
            continue
        parts = covariate.parts(value[covariate.name])
        if len(parts) < 2:
            continue
        for level, dose in parts.items():
            alone = {**value, covariate.name: {level: dose}}
            if conditions.text(alone) not in known:
                return None
            out.append(known[conditions.text(alone)])
    return out or None


def _mean(cells: Snapshot) -> Tensor:
    return (cells.weights[:, None] * cells.x.double()).sum(0).to(cells.x)


def _rows(task: _Task, job: Job) -> list[Row]:
    code, name, seed = job
    truth, text = task.truth(code), task.conditions.texts[code]
    score = Scorer(text, truth, task.metrics, DRAWS)
    if name == "floor":
        return score.floor(code, seed)
    if name in CONDITION_YARDSTICKS:
        cells = task.yardstick(name, code)
        if cells is None:
            return []
    else:
        fit = task.methods[name].fit(
            task.without(code), steps=task.steps, generator=seed, progress=False
        )
        if fit.history.stopped == "interrupted":
            raise KeyboardInterrupt
        guidance = fit.evidence if task.guidance is None else task.guidance
        given = fit.given(task.conditions.values[code], guidance=guidance)
        start = task.course.under(task.conditions.values[code]).snapshots[0]
        cells = given.predict(start, truth.time, generator=seed)
    more = {"r2": task.changes(cells, code), "rank": task.rank(cells, code)}
    sizes = len(cells), len(truth)
    return score(name, seed, cells) + [Row(text, name, seed, m, v, *sizes) for m, v in more.items()]
