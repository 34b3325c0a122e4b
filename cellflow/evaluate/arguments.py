"""What an evaluation is asked for: methods that rows can tell apart, and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cellflow import _checks
from cellflow.evaluate.table import YARDSTICKS
from cellflow.methods import Method


def as_methods(methods: Method | Iterable[Method]) -> list[Method]:
    """Return one or several `methods` as a list, each with a name of its own.

    Raises
    ------
    ValueError
        If there is none, two have one name, or one has that of a yardstick.
    """
    methods = [methods] if isinstance(methods, Method) else list(methods)
    names = [*YARDSTICKS, *(m.name for m in methods)]
    taken = sorted({name for name in names if names.count(name) > 1})
    if taken or not methods:
        got = f"names {', '.join(map(repr, taken))} more than once" if taken else "none"
        if taken and taken[0] in YARDSTICKS:
            got = f"a method named {taken[0]!r}, as a yardstick is"
        remedy = "Give each a name: dataclasses.replace(m, name=…)." if taken else ""
        raise ValueError(_checks.message("methods", got, "methods of distinct names", remedy))
    return methods


def as_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return a number of `seeds` (0, 1, …), or the seeds themselves, as a list.

    Raises
    ------
    ValueError
        If there is none, or one is negative or too large.
    """
    if isinstance(seeds, (int, np.integer)):
        return list(range(_checks.count(seeds, "seeds")))
    out = [_checks.count(s, "seeds", low=0, high=_checks.MAX_SEED) for s in seeds]
    if not out:
        raise ValueError(_checks.message("seeds", "none", "at least one"))
    return out
