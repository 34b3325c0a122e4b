"""What the tests of reports share: names, and a hold-out of which all is known."""

from __future__ import annotations

from cellflow.evaluate import HoldoutTable, Row

#: What a user may have called things; none of it may reach the page as markup.
BATCHES, TYPES = ("<b>plate 1</b>", '"plate" & 2'), ("<i>early", "late & x")
TITLE = "a <u>title</u>"
#: Distances of models from three days, and what is to be said of them beside the better of two
#: yardsticks, which are 2 and 3 away.
MODELS = {
    "best": (1.0, 1.0, 1.0),
    "worst": (2.5, 2.5, 2.5),
    "even": (1.0, 2.0, 2.5),
    "mostly": (1.0, 1.5, 2.5),
    "same": (2.0, 2.0, 2.0),
}


def table() -> HoldoutTable:
    """Table of these models and yardsticks.

    All bootstrap draws of a row agree, so that any difference is certain, and none is undecided.
    """
    rows = []
    for name, values in (MODELS | {"previous": (2.0,) * 3, "next": (3.0,) * 3}).items():
        for day, value in enumerate(values):
            rows.append(Row(float(day), name, 0, "w1", value, 9, 9, (value, value)))
    rows += [Row(float(day), "floor", 0, "w1", 0.5, 9, 9) for day in range(3)]
    return HoldoutTable(tuple(rows))
