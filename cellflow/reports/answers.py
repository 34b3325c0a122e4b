"""What the tools have left in an AnnData, and how a report shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from cellflow import _html, pl
from cellflow.reports.parts import Section, figure


@dataclass(frozen=True)
class Answer:
    """What a tool leaves in ``uns`` under `key`, or under several names that begin with it.

    Its figure, which `draw` makes of the cells and of settings of the report that it `needs`, has
    the `caption`; of its tables so many `rows` are shown.
    """

    title: str
    key: str
    draw: Callable[..., Axes | np.ndarray] | None
    caption: str
    rows: int = 0
    needs: tuple[str, ...] = ()


BASIS = ("basis",)
ANSWERS = (
    Answer("Fates", "fates", pl.fates, "Probability of each fate.", needs=BASIS),
    Answer("Origins", "ancestors", None, "Probability of each origin."),
    Answer("Composition", "composition", pl.composition, "Share of each label over time."),
    Answer("Growth", "growth_fit", pl.growth, "Births less deaths of each cell.", needs=BASIS),
    Answer("Drivers", "drivers_", pl.drivers, "Genes that go with each fate.", rows=10),
    Answer("Gene trends", "gene_trends", pl.gene_trends, "Mean expression over time."),
    Answer("Perturbation", "perturbation", pl.perturbation, "Effects of changed genes.", rows=10),
    Answer("Gene sets", "gene_sets", None, "Effects of sets of genes.", rows=10),
    Answer("Influence", "influence", pl.influence, "Influence of genes on each other."),
    Answer("Two conditions", "comparison", pl.comparison, "Difference of the flows.", 10, BASIS),
    Answer("Uncertainty", "uncertainty", pl.uncertainty, "Disagreement of the members over time."),
    Answer("Batches", "batch_free", pl.batches, "Batches before and after.", needs=("batch_key",)),
    Answer("Agreement", "velocity_agreement", None, "Agreement with measured velocities.", rows=20),
)


def answers(
    adata: AnnData, times: np.ndarray, *, basis: str | None, batch_key: str | None
) -> list[Section]:
    """Return a section for each answer in `adata`, of cells at `times` ``(n,)``, NaN where unknown.

    Maps are drawn over the embedding `basis`, if there is one, and batches of the column
    `batch_key`, likewise.
    """
    found, settings = [], {"basis": basis, "batch_key": batch_key}
    for answer in ANSWERS:
        keys = sorted(str(k) for k in adata.uns if str(k).startswith(answer.key))
        if answer.key in keys or (keys and answer.key[-1] == "_"):
            told = {name: settings[name] for name in answer.needs}
            found.append(_section(answer, keys, adata, times, told))
    return found


def _section(
    answer: Answer, keys: list[str], adata: AnnData, times: np.ndarray, told: dict[str, str | None]
) -> Section:
    """Return the section of an `answer`; where its figure cannot be drawn, it says why."""
    parts, says = [], []
    try:
        if answer.draw is not None:
            if None in told.values():
                raise ValueError(f"the report has no {' or '.join(answer.needs)}.")
            draw = partial(answer.draw, adata, **told)
            parts.append(figure(answer.key, draw, caption=answer.caption))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of another's making, too
        says.append(f"Not drawn: {error}")
    if isinstance(frame := adata.obsm.get(answer.key), pd.DataFrame):
        means = frame.groupby(times).mean().rename_axis("time")
        parts.append(table_of(means, f"{answer.caption} Means by time."))
    for key in keys if answer.rows else ():
        if isinstance(adata.uns[key], pd.DataFrame):
            name = f"{answer.title}: {key.removeprefix(answer.key)}".removesuffix(": ")
            parts.append(table_of(adata.uns[key].head(answer.rows), name))
    return Section(answer.title, says, parts=parts)


def table_of(frame: pd.DataFrame, caption: str) -> str:
    """Return `frame` as a table of HTML with a `caption`; the index names the rows."""
    head = [frame.index.name or "", *frame.columns]
    return _html.table(frame.itertuples(), head=head, caption=caption)
