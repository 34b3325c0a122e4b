"""One parser for the times of cells, whatever their labels look like."""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellflow import _checks

if TYPE_CHECKING:
    import pandas as pd

#: Length of each unit in seconds; a month is a twelfth of a year of 365.25 days.
SECONDS = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "week": 604800.0,
    "month": 2629800.0,
    "year": 31557600.0,
}

# "m" is left out on purpose: minutes or months?
_WORDS = {
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours hpf hpi",
    "day": "d day days dpf dpi dpc",
    "week": "w wk wks week weeks gw pcw",
    "month": "mo month months",
    "year": "y yr yrs year years",
}
_UNIT_OF = {word: unit for unit, words in _WORDS.items() for word in words.split()}
# Words that only stand before a number; "e" and "p" count from fertilisation and from birth.
_PREFIXES = {"e": "day", "p": "day", "t": None, "time": None, "timepoint": None}

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_LABEL = re.compile(
    rf"(?P<before>[a-z]+)?(?P<gap>[\s_:=]*)(?P<first>[+-]?{_NUMBER})"
    rf"(?:\s*(?P<between>[a-z]+?)?\s*(?:-|–|—|to)\s*(?P<again>[a-z]+)?[\s_]*(?P<last>{_NUMBER}))?"
    r"\s*_?(?P<after>[a-z]+)?"
)
_MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>", "nat"})
_READABLE = "numbers or labels such as 'day 10', 'D10', 'E8.5', '12h', '10 min' or 'day 12-15'"
_SHOWN_ROWS = 40


@dataclass(frozen=True, eq=False)
class TimeTable:
    """Times of labels, and numbers of cells that carry them; ``str(table)`` prints it.

    Each kept cell has its time (`cell_times`, float64) and its position among the parsed values
    (`kept`), both ``(n_kept,)``. The distinct `labels` are in order of their `times`, with `counts`
    of cells. The `unit` of all times is singular, such as ``"day"``; `n_missing` cells were dropped
    because they had no label.
    """

    cell_times: np.ndarray
    kept: np.ndarray
    labels: tuple[str, ...]
    times: tuple[float, ...]
    counts: tuple[int, ...]
    unit: str
    n_missing: int = 0

    @property
    def time_points(self) -> tuple[float, ...]:
        """The distinct times, increasing; fewer than labels if two labels mean one time."""
        return tuple(sorted(set(self.times)))

    def __str__(self) -> str:
        rows = [
            (label, f"{time:g}", str(count))
            for label, time, count in zip(self.labels, self.times, self.counts, strict=True)
        ]
        if len(rows) > _SHOWN_ROWS:
            half = _SHOWN_ROWS // 2
            rows = [*rows[:half], (f"… {len(rows) - 2 * half} more", "…", "…"), *rows[-half:]]
        rows = [("label", f"time ({self.unit})", "cells"), *rows]
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        lines = [
            f"{label:<{widths[0]}}  {time:>{widths[1]}}  {count:>{widths[2]}}"
            for label, time, count in rows
        ]
        if self.n_missing:
            lines.append(f"({self.n_missing} cells without a time label were dropped)")
        return "\n".join(lines)


def parse_times(
    values: Sequence | np.ndarray | pd.Series,
    *,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    name: str = "values",
) -> TimeTable:
    """Read the time of each cell from numbers or labels, in natural order.

    Understood are numbers, numbers as text, labels with a unit before or behind (``"day 10"``,
    ``"D10"``, ``"12h"``, ``"48 hours"``, ``"week 2"``, ``"E8.5"``, ``"5dpf"``), intervals with a
    unit (read as their middle: ``"day 12-15"``), :class:`pandas.Interval` and timedeltas.

    The unit of the result is the labels' own if all share one; of plain numbers, the one that the
    name of the column says (``"hour"``, ``"hours_post_infection"``, ``"Age (weeks)"``); else days,
    in which timedeltas are read. Numbers without a unit are taken to be in the unit of the result,
    but not beside labels with one (zero excepted).

    Parameters
    ----------
    values
        One label per cell, length ``n``; any dtype, also a categorical. The name of a Series is
        that of the column.
    time_map
        Time of each label, to be used instead of reading the labels.
    missing
        What to do with cells without a label (None, NaN, ``""``, ``"NA"`` and the like):
        ``"error"``, or ``"drop"`` them and count them in the table.
    unit
        Unit of the result: ``"second"``, ``"minute"``, ``"hour"``, ``"day"``, ``"week"``,
        ``"month"`` or ``"year"``. Chosen by the rule above when omitted. Plain numbers are not
        converted: they are in this unit, whatever their column is called.
    name
        How to call `values` in messages.

    Raises
    ------
    ValueError
        If a label cannot be read, or two count from different origins (``"E18"`` and ``"P2"``).

    Examples
    --------
    >>> from cellflow.pp import parse_times
    >>> table = parse_times(["day 10", "day 2", "day 2", "36h"])
    >>> print(table)
    label   time (day)  cells
    36h            1.5      1
    day 2            2      2
    day 10          10      1
    """
    import pandas as pd

    _checks.choice(missing, ("error", "drop"), "missing")
    if unit is not None:
        _checks.choice(unit, SECONDS, "unit")
    if not isinstance(time_map, Mapping | None):
        got, remedy = f"a {type(time_map).__name__}", "Pass {label: time, …}."
        raise TypeError(_checks.message("time_map", got, "a mapping from labels", remedy))
    values = np.asarray(values) if type(values).__module__.startswith("torch") else values
    if np.ndim(values) != 1:
        shape = np.shape(values)
        raise ValueError(_checks.message(name, f"shape {shape}", "one label per cell, shape (n,)"))
    codes, uniques = pd.factorize(pd.Series(values), use_na_sentinel=True)
    labels = list(uniques)
    known = np.array([not is_missing(label, time_map) for label in labels] + [False])
    kept = np.flatnonzero(known[codes])  # code -1, a missing value, reads the last entry
    n, n_missing = len(codes), len(codes) - len(kept)
    if n_missing == n:
        raise ValueError(_checks.message(name, f"no time label in {n} cells", "one per cell"))
    if n_missing and missing == "error":
        remedy = "Set missing='drop' to leave these cells out."
        got = f"{n_missing} of {n} cells without a time label"
        raise ValueError(_checks.message(name, got, "a label in every cell", remedy))
    present = [k for k in range(len(labels)) if known[k]]
    shown = [labels[k] for k in present]
    if time_map is not None:
        times, unit = _mapped(shown, time_map, name), unit or "day"
    else:
        bare = unit_of_name(getattr(values, "name", None)) or "day"
        moments = [_moment(v, name) for v in shown]
        times, unit = _in_one_unit(shown, moments, unit=unit, bare_unit=bare, name=name)
    time_of = np.full(len(labels) + 1, np.nan)
    time_of[present] = times
    counts = np.bincount(codes[kept], minlength=len(labels) + 1)
    order = sorted(present, key=lambda k: (time_of[k], str(labels[k])))
    return TimeTable(
        cell_times=time_of[codes[kept]],
        kept=kept,
        labels=tuple(str(labels[k]) for k in order),
        times=tuple(float(time_of[k]) for k in order),
        counts=tuple(int(counts[k]) for k in order),
        unit=unit,
        n_missing=n_missing,
    )


def unit_of_name(name: object) -> str | None:
    """Return the unit that a column's `name` says; None if it says none, or several.

    Single letters but h and d say none: pandas calls merged columns ``"time_y"``.
    """
    words = re.findall("[a-z]+", str(name).lower())
    units = {_UNIT_OF[w] for w in words if w in _UNIT_OF and (len(w) > 1 or w in "hd")}
    return units.pop() if len(units) == 1 else None


def read_time(
    value: float | str, labels: Mapping[str, float], *, unit: str, name: str = "time"
) -> float:
    """Return the time of `value` in `unit`, of a course whose `labels` meant those times.

    A number is in `unit`; text is one of `labels`, a number too, or another label that says its
    unit, such as ``"252h"`` or ``"E7.6"``. Raises ValueError for a label that says no time, or
    that counts from another origin than `labels` do: ``"P2"`` beside ``"E18"``, and any new label
    where a ``time_map`` has moved those that can be read.
    """
    if not isinstance(value, str):
        return _checks.number(value, name)
    if value in labels:
        return labels[value]
    moment, scale = _read_label(value), SECONDS.get(unit, math.nan)
    time = math.inf if moment is None else moment.value
    if moment is not None and moment.unit is not None:
        time *= SECONDS[moment.unit] / scale
        for label, known in labels.items():
            other = _read_label(label)
            if other is None:
                continue
            read = other.value * SECONDS.get(other.unit or unit, math.nan) / scale
            if {other.origin, moment.origin} == {"e", "p"} or not math.isclose(read, known):
                got = f"{value!r}, beside {label!r} of the fit at {unit} {known:g}"
                raise ValueError(_checks.message(name, got, f"a number of {unit}s"))
    if not math.isfinite(time * SECONDS.get(unit, 1.0)):
        expected = f"a finite number of {unit}s, or a label of a time such as '{unit} 10'"
        remedy = f"The fit knows {listed(list(labels))}." if labels else ""
        raise ValueError(_checks.message(name, repr(value), expected, remedy))
    return time


def is_missing(label: Hashable, time_map: Mapping[Hashable, float] | None = None) -> bool:
    """Whether a `label` is a spelled-out missing value that `time_map` does not know."""
    if not isinstance(label, str) or label.strip().lower() not in _MISSING_WORDS:
        return False
    return time_map is None or label not in time_map


def _mapped(labels: list[Hashable], time_map: Mapping[Hashable, float], name: str) -> list[float]:
    """Look every label up, as it is or as text."""
    by_text = {str(key): value for key, value in time_map.items()}
    absent = [label for label in labels if str(label) not in by_text]
    if absent:
        got = f"label(s) without a time in `time_map`: {listed(absent)}"
        raise ValueError(_checks.message(name, got, "a time for every label", _suggest(absent)))
    return [_checks.number(by_text[str(label)], f"time_map[{label!r}]") for label in labels]


@dataclass(frozen=True)
class _Moment:
    """A time as written: its number, its unit (None: not said) and what it counts from."""

    value: float
    unit: str | None
    origin: str = ""


def _read_label(label: str) -> _Moment | None:
    """Read one label; None if it does not say a time in one unambiguous way.

    An interval is read as its middle, if it says its unit. A hyphen between a word and a number
    ("day-2") may be a dash or a minus sign: such a label is ambiguous, whereas "day -2" and "-2"
    are negative.
    """
    match = _LABEL.fullmatch(label.strip().lower())
    if match is None:
        return None
    before, first, last = match["before"], match["first"], match["last"]
    if before and not match["gap"] and first[0] in "+-":
        return None
    value = float(first)
    if last is not None:
        if float(last) <= value:
            return None
        value = (value + float(last)) / 2
    units, origin = set(), ""
    for place in ("before", "between", "again", "after"):
        word = match[place]
        if word is None:
            continue
        if place in ("before", "again") and word in _PREFIXES:
            units |= {_PREFIXES[word]} - {None}
            origin = word if word in ("e", "p") else origin
        elif word in _UNIT_OF:
            units.add(_UNIT_OF[word])
        else:
            return None
    if len(units) > 1 or (match["again"] and match["again"] != before) or math.isinf(value):
        return None
    if last is not None and not units:  # "1-2" may as well be replicate 2 of day 1
        return None
    return _Moment(value, units.pop() if units else None, origin)


def _moment(value: object, name: str) -> _Moment | None:
    """Read one distinct value; None if it is text or an object that says no time."""
    import pandas as pd

    if isinstance(value, str):
        return _read_label(value)
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(_checks.message(name, "booleans", _READABLE, "Pass time_map={...}."))
    if isinstance(value, numbers.Real):
        return _Moment(_checks.number(float(value), name), None)
    if isinstance(value, (datetime.date, np.datetime64)):  # includes datetime and Timestamp
        remedy = "Subtract the start of the experiment to get timedeltas."
        raise TypeError(_checks.message(name, f"dates such as {value}", _READABLE, remedy))
    if isinstance(value, (datetime.timedelta, np.timedelta64)):  # includes pandas' Timedelta
        return _Moment(pd.Timedelta(value) / pd.Timedelta(days=1), "day")
    return _moment(value.mid, name) if isinstance(value, pd.Interval) else None


def _in_one_unit(
    labels: list[Hashable],
    moments: list[_Moment | None],
    *,
    unit: str | None,
    bare_unit: str,
    name: str,
) -> tuple[list[float], str]:
    """Convert all moments to `unit`; or to the one they share, `bare_unit` if none, else days."""
    unread = [label for label, moment in zip(labels, moments, strict=True) if moment is None]
    if unread:
        got = f"label(s) {listed(unread)}"
        raise ValueError(_checks.message(name, got, _READABLE, _suggest(unread)))
    read = [moment for moment in moments if moment is not None]
    origins = {moment.origin for moment in read}
    if len(origins) > 1:
        got = f"labels that count from different origins: {listed(labels)}"
        raise ValueError(_checks.message(name, got, "one origin", _suggest(labels)))
    units = {moment.unit for moment in read if moment.unit is not None}
    bare = [
        label
        for label, moment in zip(labels, read, strict=True)
        if moment.unit is None and moment.value != 0
    ]
    if units and bare:
        got = f"label(s) without a unit beside labels with one: {listed(bare)}"
        raise ValueError(_checks.message(name, got, "a unit in all or none", _suggest(bare)))
    if unit is None:
        unit = next(iter(units), bare_unit) if len(units) < 2 else "day"
    return [m.value * SECONDS[m.unit or unit] / SECONDS[unit] for m in read], unit


def listed(labels: Sequence[Hashable], limit: int = 8) -> str:
    """Name up to `limit` labels and count the rest."""
    text = ", ".join(repr(str(label)) for label in labels[:limit])
    return text if len(labels) <= limit else f"{text} and {len(labels) - limit} more"


def _suggest(labels: list[Hashable]) -> str:
    """Remedy: an explicit map, begun with the first label in question."""
    return f"Pass their times: time_map={{{str(labels[0])!r}: 0.0, ...}}, one for each label."
