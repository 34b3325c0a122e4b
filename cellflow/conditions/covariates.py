"""Covariates: what is told of a condition, and the tokens that a network sees of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from cellflow import _checks
from cellflow._registry import Registry
from cellflow._typing import Tensor

#: A level, a number, several levels, or levels with their doses; None for nothing.
Value: TypeAlias = "str | float | Sequence[str] | Mapping[str, float] | None"


class Covariate(ABC):
    """What is told of a condition under one name: a drug, a dose, a donor.

    A member is a frozen dataclass in this file, whose settings JSON can hold, and registers itself:
    ``@COVARIATES.register("categorical")``.
    """

    name: str

    @property
    @abstractmethod
    def width(self) -> int:
        """Features of a token."""

    @abstractmethod
    def tokens(self, value: Value) -> Tensor:
        """Return what a network sees of `value`: tokens ``(m, width)``, float64."""

    @abstractmethod
    def text(self, value: Value) -> str:
        """Return `value` as people write it; one text for equal values."""

    def read(self, text: str) -> Value:
        """Return the value that a `text` of :meth:`text` stands for."""
        return text


#: Kinds of covariates by name.
COVARIATES: Registry[type[Covariate]] = Registry("cellflow.conditions")


@COVARIATES.register("categorical")
@dataclass(frozen=True)
class Categorical(Covariate):
    """One of several levels, or a set of them, each with a dose if it has one.

    A token is the level's `embedding`, one-hot where there is none; if `doses`, the same times the
    logarithm of one plus the dose, so that what is linear in a token has a slope for each level;
    and a one where there is no level, so that a control is told from a condition of which nothing
    is said.

    Of the covariate `name`, the text ``"A+B"`` is the set of two `levels`, ``"A:1+B:0.3"`` with
    doses. An `embedding` has one row of features for each level; levels that no cell had can then
    be predicted. With `doses`, levels come with numbers, ``{"A": 1.0, "B": 0.3}``, zero or more.
    The level that stands for none, such as ``"control"``, is `none`.
    """

    name: str
    levels: tuple[str, ...]
    embedding: tuple[tuple[float, ...], ...] | None = None
    doses: bool = False
    none: str | None = None

    def __post_init__(self) -> None:
        levels = tuple(str(level) for level in self.levels if level != self.none)
        if len(set(levels)) < len(levels) or (not levels and self.none is None):
            raise ValueError(_checks.message("levels", f"{levels}", "one name for each level"))
        object.__setattr__(self, "levels", levels)
        if self.embedding is None:
            return
        rows = tuple(tuple(_checks.several(row, "embedding")) for row in self.embedding)
        if len(rows) != len(levels) or len({len(row) for row in rows}) > 1:
            got, expected = f"{len(rows)} rows", f"{len(levels)} of equal length, one for a level"
            raise ValueError(_checks.message("embedding", got, expected))
        object.__setattr__(self, "embedding", rows)

    @property
    def width(self) -> int:
        size = len(self.levels) if self.embedding is None else len(self.embedding[0])
        return size * (1 + self.doses) + 1

    def parts(self, value: Value) -> dict[str, float]:
        """Return the levels of `value` with their doses, 1 where none is said, in order."""
        given: dict[Any, float]
        if value is None or isinstance(value, str):
            whole = value is None or value in self.levels or value == self.none
            parts = [value] if whole else value.split("+")  # type: ignore[union-attr] # a text
            given = dict(_dosed(p) if self.doses and p else (p, 1.0) for p in parts)
        elif isinstance(value, Mapping):
            given = dict(value)
        elif isinstance(value, Sequence):
            given = dict.fromkeys(value, 1.0)
        else:
            given = dict.fromkeys([str(value)], 1.0)
        out = {}
        for level, dose in given.items():
            if level is None or level == self.none or _checks.number(dose, self.name, low=0.0) == 0:
                continue
            out[_checks.choice(level, self.levels, self.name)] = dose
        return dict(sorted(out.items()))

    def read(self, text: str) -> Value:
        if not self.doses or ":" not in text:
            return text
        parts = [part.rpartition(":") for part in text.split("+")]
        return {
            level or dose: as_number(dose, self.name) if level else 1.0 for level, _, dose in parts
        }

    def tokens(self, value: Value) -> Tensor:
        parts = self.parts(value)
        out = torch.zeros(max(len(parts), 1), self.width, dtype=torch.float64)
        if not parts:
            out[0, -1] = 1.0
        for row, (level, dose) in zip(out, parts.items(), strict=False):
            k = self.levels.index(level)
            if self.embedding is None:
                row[k] = 1.0
            else:
                row[: len(self.embedding[k])] = torch.tensor(self.embedding[k])
            if self.doses:
                size = self.width // 2
                row[size:-1] = math.log1p(dose) * row[:size]
        return out

    def text(self, value: Value) -> str:
        parts = self.parts(value)
        if not parts:
            return self.none or "none"
        return "+".join(f"{k}:{v:g}" if self.doses else k for k, v in parts.items())


def _dosed(part: str) -> tuple[str, float]:
    """Return the level of ``"A:0.3"`` with its dose, 1 where there is none."""
    level, _, dose = part.rpartition(":")
    try:
        return (level, float(dose)) if level else (part, 1.0)
    except ValueError:
        return part, 1.0


@COVARIATES.register("continuous")
@dataclass(frozen=True)
class Continuous(Covariate):
    """A number, such as a dose.

    Of the covariate `name`, the token is the number, or its logarithm where `log` says so, less
    `centre`, in units of `scale`. Where the logarithm counts, numbers are positive.
    """

    name: str
    centre: float = 0.0
    scale: float = 1.0
    log: bool = False

    def __post_init__(self) -> None:
        _checks.number(self.centre, "centre")
        _checks.number(self.scale, "scale", low=0.0, open_low=True)

    @classmethod
    def of(cls, name: str, values: Sequence[float], *, log: bool = False) -> Continuous:
        """Return the covariate `name` with centre and scale of its `values`, of their `log`."""
        x = torch.tensor(_checks.several(values, name), dtype=torch.float64)
        plain = cls(name, log=log)
        z = torch.stack([plain.tokens(float(v))[0, 0] for v in x])
        spread = float(z.std(correction=0)) if len(z) else 0.0
        return cls(name, float(z.mean()), spread or 1.0, log)

    @property
    def width(self) -> int:
        return 1

    def read(self, text: str) -> Value:
        return as_number(text, self.name)

    def tokens(self, value: Value) -> Tensor:
        low = 0.0 if self.log else -math.inf
        x = _checks.number(value, self.name, low=low, open_low=self.log)  # type: ignore[arg-type] # it refuses others
        x = math.log(x) if self.log else x
        return torch.tensor([[(x - self.centre) / self.scale]], dtype=torch.float64)

    def text(self, value: Value) -> str:
        return f"{_checks.number(value, self.name):g}"  # type: ignore[arg-type] # it refuses others


def as_number(text: str, name: str) -> float:
    """Return the number that a `text` of the covariate `name` stands for."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(_checks.message(name, repr(text), "a number")) from None
