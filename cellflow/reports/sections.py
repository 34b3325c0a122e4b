"""Sections about a fit: its cells, training, pairs, flow, hold-out, settings, and papers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
from anndata import AnnData

from cellflow import _checks, _html, pl, pp
from cellflow._typing import Rng
from cellflow.fits import Ensemble, Fit
from cellflow.fits.report import coupling_problems, fit_report
from cellflow.logging import versions
from cellflow.pp.access import expression_on_disk
from cellflow.reports.answers import table_of
from cellflow.reports.parts import Section, figure
from cellflow.simulate import Trajectory
from cellflow.timecourse import TimeCourse

#: Ratio of the largest number of cells, or interval, to the least, from which on it is unequal.
UNEQUAL = 3.0
#: Trajectories that are drawn.
DRAWN = 100
#: What labels of times mean; None where the times are numbers.
Labels = Mapping[Hashable, float] | None


def data(
    adata: AnnData, fit: Fit | Ensemble, batch_key: str | None, *, time_key: str, labels: Labels
) -> Section:
    """Return what is known of the cells of `adata` by time, and by the column `batch_key`.

    Cells and times, of the column `time_key`, whose `labels` mean what is told, are read as the
    `fit` did. Expression on disk is not checked.
    """
    origin, course = fit.origin, fit.course
    if origin["use_rep"] == "X" and expression_on_disk(adata):
        sizes = [(f"{s.time:g}", len(s)) for s in course.snapshots]
        said = "Expression is on disk: the cells that were fitted are counted, and not checked."
        head = (course.unit, "cells")
        return Section("Data", [said], parts=[_html.table(sizes, head=head)])
    found = pp.check(
        adata,
        time_key=time_key,
        use_rep=origin["use_rep"],
        n_dims=None if origin["use_rep"] == "X" else course.dim,
        label_key=origin.get("label_key"),
        batch_key=batch_key,
        time_map=labels,
        missing="drop",
        unit=course.unit,
    )
    times, n = found.times, len(course.x)
    counted = zip(times.labels, times.times, times.counts, strict=True)
    parts = [_html.table(counted, head=("label", course.unit, "cells"), caption="Cells by time")]
    for name, table in (("group", found.groups), ("batch", found.batches)):
        if table is not None:
            parts.append(table_of(table, f"Cells of each {name} by time ({course.unit})"))
    points = [*found.warnings, *_unequal(course)]
    if len(times.kept) != n:
        points.append(f"The fit was made of {n:,} cells; these are {len(times.kept):,}.")
    said = f"{len(times.kept):,} cells in {course.dim} dimensions of {found.use_rep}"
    lost = f", {times.n_missing:,} without a time left out" if times.n_missing else ""
    return Section("Data", [f"{said}{lost}."], points, parts)


def _unequal(course: TimeCourse) -> list[str]:
    """Return a sentence where numbers of cells, and one where intervals are unequal."""
    unit, out = course.unit, []
    few, *_, many = sorted(course.snapshots, key=len)
    if len(many) >= UNEQUAL * len(few):
        out.append(
            f"Sampling is unequal: {len(few):,} cells at {unit} {few.time:g}, {len(many):,} at "
            f"{unit} {many.time:g}. What rests on the few is less sure."
        )
    gaps = sorted((b - a, a, b) for a, b in pairwise(course.times))
    (short, *_), (long, start, end) = gaps[0], gaps[-1]
    if long >= UNEQUAL * short:
        out.append(
            f"Intervals are unequal: from {unit} {start:g} to {end:g} it is {long / short:.3g} "
            "times as long as the shortest, so that much may have been missed."
        )
    return out


def training(fit: Fit | Ensemble) -> Section:
    """Return how the networks of `fit` were trained."""
    first = fit.members[0] if isinstance(fit, Ensemble) else fit
    history, says = first.history, fit_report(fit.method.name, first.history).splitlines()[:2]
    if not history.step:
        return Section("Training", says)
    losses = f"From {history.train_loss[0]:.3g} to {history.train_loss[-1]:.3g} in "
    drawn = figure(
        "history",
        lambda: pl.history(first),
        caption="Loss while training" + ("." if first is fit else ", of the first member."),
        alt=f"{losses}{history.step[-1]:,} steps; those of {history.best_step:,} were kept.",
    )
    return Section("Training", [f"{said}." for said in says], parts=[drawn])


def coupling(fit: Fit | Ensemble) -> Section:
    """Return how the cells of `fit` were paired, and what to do where that went badly."""
    histories = fit.history if isinstance(fit, Ensemble) else (fit.history,)
    points = dict.fromkeys(text for h in histories for text in coupling_problems(h.coupling))
    facts = {name.replace("_", " "): value for name, value in histories[0].coupling.items()}
    good = "Nothing went wrong in pairing cells." if facts else "No cells were paired."
    parts = [_html.table(facts.items(), caption="Pairs of cells, over all plans")] if facts else []
    return Section("Coupling", [] if points else [good], list(points), parts)


def flow(
    adata: AnnData,
    fit: Fit | Ensemble,
    basis: str | None,
    *,
    time_key: str,
    labels: Labels,
    rng: Rng,
) -> Section:
    """Return trajectories of `fit` from its first cells, and velocities, on an embedding `basis`.

    The cells of `adata` have times in the column `time_key`, whose `labels` mean what is told. The
    seed or generator `rng` chooses those that are carried.
    """
    if basis is None:
        return Section("Flow", ["Not drawn: there is no embedding."])
    origin, times = fit.origin, fit.course.times
    how: dict[str, Any] = {"time_key": time_key, "time_map": labels, "basis": basis}
    rng = _checks.as_generator(rng, "rng")
    first = fit.course.snapshots[0].shuffled(DRAWN, rng)
    grid = np.linspace(times[0], times[-1], 50).tolist()
    paths = cast(Trajectory, fit.simulate(first.x, grid, generator=rng, progress=False))
    said = f"{len(first)} cells of {fit.course.unit} {times[0]:g}, carried to {times[-1]:g}."
    drawn = partial(pl.trajectories, adata, paths, use_rep=origin["use_rep"], **how)
    parts = [figure("trajectories", drawn, caption=said, alt="Cells are coloured by time.")]
    if f"velocity_{basis.removeprefix('X_')}" in adata.obsm:
        words = "Velocities, averaged over neighbouring cells."
        parts.append(figure("velocity", partial(pl.velocity, adata, **how), caption=words))
    together = "All conditions together; for one of them, give fit.given(condition)."
    return Section("Flow", [together] if fit.course.conditions else [], parts=parts)


def settings(fit: Fit | Ensemble, rng: Rng) -> Section:
    """Return the parameters of the method of `fit`, seeds, that of the page `rng`, and versions."""
    seeds = fit.seeds if isinstance(fit, Ensemble) else [fit.origin.get("seed", "not known")]
    rows = [
        ("seed of the fit", ", ".join(map(str, seeds))),
        ("seed of this page", rng if isinstance(rng, int) else "a generator"),
    ]
    rows += [("cells are", "as they were read" if fit.preprocessing is None else "transformed")]
    made = {k: v for k, v in versions().items() if k not in ("system", "device", "threads")}
    parts = [
        _html.table([*rows, *_parameters(fit.method)], caption="Method and its parameters"),
        _html.table(made.items(), caption="Versions"),
    ]
    return Section("Settings", parts=parts)


def _parameters(part: object, prefix: str = "") -> list[tuple[str, object]]:
    """Return names and values of the fields of a method, and of its parts by a dot."""
    rows: list[tuple[str, object]] = []
    for field in fields(part) if is_dataclass(part) else ():
        value, name = getattr(part, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            rows += [(name, type(value).__name__), *_parameters(value, f"{name}.")]
        else:
            rows.append((name, getattr(value, "__qualname__", value)))  # a function has an address
    return rows
