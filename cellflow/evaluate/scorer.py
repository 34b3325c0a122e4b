"""Scores of predictions for one held-out time point, and what an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cellflow import _checks, metrics
from cellflow._random import stream_seed, systematic
from cellflow._typing import Tensor
from cellflow.clock import CLOCKS, Clock
from cellflow.couplings import Coupling, Exact, Reach
from cellflow.evaluate.table import BEST, CONDITION_YARDSTICKS, DRAWN, YARDSTICKS, Row
from cellflow.methods import Method
from cellflow.metrics import Metric, split_half_floor
from cellflow.timecourse import Snapshot, TimeCourse

#: Metrics by name that predictions are scored with.
METRICS: dict[str, Metric] = {name: m for name, m in metrics.METRICS.items() if m.of_holdouts}
#: Bootstrap draws of a hold-out: their deviation is known to a sixth.
DRAWS = 20
#: Unlearned interpolations between snapshots: the coupling whose plan they follow, and their clock.
MIDPOINTS: dict[str, tuple[Coupling, str]] = {
    "ot_midpoint": (Exact(), "physical"),
    "uot_midpoint": (Reach(), "physical"),
    "uot_clock": (Reach(), "tempered"),
}
#: Most cells of a snapshot that a plan with growth is made of, which is held whole.
MOST = 3000


@dataclass(frozen=True, eq=False)
class Scorer:
    """Compares predictions with `truth`, the cells observed at the time `held_out`.

    By `metrics`, names in :data:`METRICS`, and by the first of them for a number of bootstrap
    `draws`, too, which are the same for all predictions: see :class:`~cellflow.evaluate.table.Row`.
    """

    held_out: float | str
    truth: Snapshot
    metrics: Sequence[str]
    draws: int = 0

    def __call__(self, method: str, seed: int, cells: Snapshot) -> list[Row]:
        """Return one row for each metric, for `cells` that `method` predicted with a `seed`."""
        x, y = cells, self.truth
        masses = {"x_mass": _mass(x), "y_mass": _mass(y)}
        rows = [
            Row(self.held_out, method, seed, m, METRICS[m](x.x, y.x, **masses), len(x), len(y))
            for m in self.metrics
        ]
        return [replace(rows[0], bootstrap=self._bootstrap(cells)), *rows[1:]]

    def _bootstrap(self, cells: Snapshot) -> tuple[float, ...]:
        """Distances of draws of `cells` from draws of the truth, by the first metric."""
        metric, x, y = METRICS[self.metrics[0]], cells, self.truth
        masses = [
            {"x_mass": _drawn(x, stream_seed(0, k, 22)), "y_mass": _drawn(y, stream_seed(0, k, 23))}
            for k in range(self.draws)
        ]
        return tuple(metric(x.x, y.x, **each) for each in masses)

    def yardstick(self, name: str, course: TimeCourse, k: int, *, seed: int) -> list[Row]:
        """Return rows, for one `seed`, of a prediction of snapshot `k` of `course` without a model.

        Which one says its `name`, of :data:`~cellflow.evaluate.table.YARDSTICKS`.
        """
        if name == "floor":
            return self.floor(k, seed)
        before, after = course.snapshots[k - 1], course.snapshots[k + 1]
        if name in MIDPOINTS:
            coupling, clock = MIDPOINTS[name]
            x = interpolated(coupling, course, k, seed=stream_seed(seed, k, 20), clock=clock)
            cells = Snapshot(x, course.times[k])
        elif name == "pooled":
            cells = Snapshot(torch.cat([before.x, after.x]), before.time)
            if not (before.is_uniform and after.is_uniform):
                # Each snapshot weighs as many cells as it has.
                mass = torch.cat([len(s) * s.weights for s in (before, after)])
                cells = replace(cells, mass=mass)
        else:
            cells = {"previous": before, "next": after}[name]
        return self(name, seed, cells)

    def floor(self, k: int, seed: int) -> list[Row]:
        """Return rows of the distance between halves of truth `k`, drawn by number and `seed`."""
        half, rows = len(self.truth) // 2, []
        x, mass, draw = self.truth.x, _mass(self.truth), stream_seed(seed, k, 21)
        for m in self.metrics:
            floor = split_half_floor(x, METRICS[m], mass=mass, generator=draw, repeats=1)
            rows.append(Row(self.held_out, "floor", seed, m, float(floor), half, half))
        return rows


def interpolated(
    coupling: Coupling, course: TimeCourse, k: int, *, seed: int, clock: str = "physical"
) -> Tensor:
    """Return cells between snapshots `k` - 1 and `k` + 1 of `course` at the time of snapshot `k`.

    A `clock` of the other snapshots, a name of :data:`~cellflow.clock.CLOCKS`, says how far on that
    is. They are on straight lines between cells paired by `coupling`, as many as snapshot `k` - 1
    has, drawn by the mass that pairs have there, so that each weighs the same; shape ``(n, d)``.
    """
    before, after = course.snapshots[k - 1], course.snapshots[k + 1]
    weight = CLOCKS[clock]
    progress = Clock.by_distance(course.without(k), weight=weight) if weight else torch.as_tensor
    start, here, end = (float(progress(s.time)) for s in course.snapshots[k - 1 : k + 2])
    n, share = len(before), (here - start) / (end - start)
    rng = torch.Generator().manual_seed(seed)
    if coupling.grows:
        before, after = (s.shuffled(MOST, rng) for s in (before, after))
    plan = coupling(before, after)
    if plan.source_growth is None or plan.target_growth is None:
        rows, cols = plan.sample(n, seed)
    else:
        grown = plan.source_growth[:, None] + plan.target_growth
        mass = (plan.dense() * (share * (grown - grown.max())).exp()).flatten()
        pair = systematic(mass / mass.sum(), n, rng).to(mass.device)
        rows, cols = pair // len(after), pair % len(after)
    # In the order of the cells before, as models carry them: bootstrap draws are shared.
    rows, order = rows.sort(stable=True)
    return torch.lerp(before.x[rows], after.x[cols[order]], share)


def _drawn(cells: Snapshot, seed: int) -> Tensor:
    """Masses of `cells`, each times how often it was drawn; metrics leave out those of none."""
    size, rng = min(len(cells), DRAWN), torch.Generator().manual_seed(seed)
    times = torch.randint(len(cells), (size,), generator=rng).bincount(minlength=len(cells))
    return cells.weights * times.to(cells.x.device)


def _mass(cells: Snapshot) -> Tensor | None:
    return None if cells.is_uniform else cells.mass  # metrics are faster without


def as_methods(methods: Method | Iterable[Method]) -> list[Method]:
    """Return one or several `methods` as a list, each with a name of its own."""
    methods = [methods] if isinstance(methods, Method) else _checks.several(methods, "methods")
    for method in methods:
        if not isinstance(method, Method):
            got = f"a {type(method).__name__} among them"
            raise TypeError(_checks.message("methods", got, "methods such as OTCFM()"))
    own = list(dict.fromkeys((*YARDSTICKS, *CONDITION_YARDSTICKS, BEST)))
    names = [*own, *(m.name for m in methods)]
    taken = sorted({name for name in names if names.count(name) > 1})
    if taken or not methods:
        got = f"names {', '.join(map(repr, taken))} more than once" if taken else "none"
        if taken and taken[0] in own:
            got = f"a method named {taken[0]!r}, as a yardstick is"
        remedy = "Give each a name: dataclasses.replace(m, name=…)." if taken else ""
        raise ValueError(_checks.message("methods", got, "methods of distinct names", remedy))
    return methods


def as_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return a number of `seeds` (0, 1, …), or the seeds themselves, as a list."""
    if isinstance(seeds, (int, np.integer)):
        return list(range(_checks.count(seeds, "seeds")))
    out = [_checks.count(s, "seeds", low=0) for s in _checks.several(seeds, "seeds")]
    if not out:
        raise ValueError(_checks.message("seeds", "none", "at least one"))
    _checks.distinct(out, "seeds")
    return out


def as_metrics(metrics: Sequence[str]) -> list[str]:
    """Return the names of `metrics` as a list, one at least."""
    metrics = list(metrics)
    if not metrics:
        raise ValueError(_checks.message("metrics", "none", f"some of {', '.join(METRICS)}"))
    return [_checks.choice(m, METRICS, "metrics") for m in metrics]
