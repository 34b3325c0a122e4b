"""What a hold-out says of a flow, in plain words."""

from __future__ import annotations

from cellflow import _html, pl
from cellflow.evaluate import HoldoutTable
from cellflow.evaluate.table import BEST
from cellflow.pl.evaluation import NAMES
from cellflow.reports.parts import Section, figure

_BEST = "the best prediction that learns nothing (chosen for each with hindsight)"


def holdout(table: HoldoutTable) -> Section:
    """Return how well what was left out is predicted, by each metric of `table`."""
    tables = []
    for metric in table.metrics:
        head, *rows = table.grid(metric)
        named = [[NAMES.get(name, name), *rest] for name, *rest in rows]
        caption = f"Distance to the held-out cells by {metric}: mean ± deviation over seeds"
        tables.append(_html.table(named, head=["prediction", *head[1:]], caption=caption))
    says = [verdict(table, model) for model in table.models]
    points = [
        f"The flow ({model}) {against(table, model, yardstick)}."
        for model in table.models
        for yardstick in table.yardsticks
    ]
    drawn = figure(
        "holdout",
        lambda: pl.holdout(table, metric=table.metrics[0]),
        caption="Models (filled), predictions that learn nothing (open), and the noise floor: the "
        "distance between two random halves of the cells held out, below which nothing can be "
        "told apart.",
        alt=" ".join(says),
    )
    return Section("Hold-out", says, points, [drawn, *tables])


def verdict(table: HoldoutTable, model: str) -> str:
    """Return what `table` says of a `model` beside the best of what learns nothing, in words."""
    better, undecided, worse = table.counts(model, BEST).values()
    if better > worse + undecided and not worse:
        judged = "What it says of what was not sampled has been tested, and holds."
    elif better <= worse:
        judged = "What it says of what was not sampled is no surer than what learns nothing."
    else:
        judged = "It is worth more in some places than in others: see the table."
    return f"The flow ({model}) {against(table, model, BEST)}, by {table.metrics[0]}. {judged}"


def against(table: HoldoutTable, model: str, yardstick: str) -> str:
    """Return on how many time points a `model` is better than a `yardstick`, in words."""
    better, undecided, worse = found = table.counts(model, yardstick).values()
    name = _BEST if yardstick == BEST else f"“{NAMES.get(yardstick, yardstick)}”"
    many = "" if sum(found) == 1 else "s"
    text = f"beats {name} on {better or 'none'} of {sum(found)} {table.unit}{many}"
    text += f", loses on {worse}" if worse else ""
    return text + (f", and cannot be told apart from it on {undecided}" if undecided else "")
