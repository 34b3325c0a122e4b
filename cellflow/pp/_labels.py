"""One label of a time, such as ``"E8.5"`` or ``"48 hours"``, read as a number with a unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Moment:
    """A time as written: its number, its unit (None: not said) and what it counts from."""

    value: float
    unit: str | None
    origin: str = ""


def read_label(label: str) -> Moment | None:
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
    if len(units) > 1 or (match["again"] and match["again"] != before):
        return None
    if not math.isfinite(value):
        return None
    if last is not None and not units:  # "1-2" may as well be replicate 2 of day 1
        return None
    return Moment(value, units.pop() if units else None, origin)
