"""The conditions of a course, and what a network is told of those of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.conditions.covariates import COVARIATES, Covariate, Value

#: A value for each covariate, or for some of them; for the only one, the value itself.
Condition: TypeAlias = "Mapping[str, Value] | Value"


@dataclass(frozen=True, eq=False)
class Context:
    """What a network is told of the conditions of cells: tokens, of which some are padding.

    The `tokens` of c conditions ``(c, m, e)`` have the features of each covariate in columns of
    their own; `present` ``(c, m)`` says which of them there are. A condition without any is that of
    a cell of which nothing is said. The condition of each of n cells is in `rows` ``(n,)``, None
    where all cells share the only one.
    """

    tokens: Tensor
    present: Tensor
    rows: Tensor | None = None

    @classmethod
    def nothing(cls, features: int) -> Context:
        """Return the context that says nothing, of tokens with so many `features`."""
        return cls(torch.zeros(1, 1, features), torch.zeros(1, 1, dtype=torch.bool))

    def of_cells(self, encoded: Tensor) -> Tensor:
        """Return what was `encoded` of conditions, ``(c, ...)``, per cell: ``(n or 1, ...)``."""
        return encoded if self.rows is None else encoded.index_select(0, self.rows)

    def to(self, like: Tensor) -> Context:
        """Return the context in the dtype, and on the device, of `like`."""
        rows = None if self.rows is None else self.rows.to(like.device)
        return Context(self.tokens.to(like), self.present.to(like.device), rows)


@dataclass(frozen=True, eq=False)
class Conditions:
    """Conditions that cells were under, each with a value of all covariates.

    What is told of a condition are its `covariates`, see :mod:`cellflow.conditions.covariates`,
    whose values by their names are `values`, one mapping for each condition; cells refer to them by
    their position, their code. The code `control` is that of the condition whose cells others start
    from where they have none of their own. Couplings cross the covariates `across`: cells that
    differ in these alone may be paired. A prediction need not tell those of `nuisance`, such as a
    donor.
    """

    covariates: tuple[Covariate, ...]
    values: tuple[Mapping[str, Value], ...]
    control: int | None = None
    across: tuple[str, ...] = ()
    nuisance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "covariates", tuple(self.covariates))
        names = self.names
        if not names or len(set(names)) < len(names):
            raise ValueError(
                _checks.message("covariates", f"{names}", "one or more, with a name each")
            )
        for what in ("across", "nuisance"):
            chosen = tuple(_checks.choice(n, names, what) for n in getattr(self, what))
            object.__setattr__(self, what, chosen)
        values = tuple(self._whole(v) for v in self.values)
        object.__setattr__(self, "values", values)
        if not values or len(set(self.texts)) < len(values):
            got = f"{len(values)} conditions, {len(set(self.texts))} of them different"
            raise ValueError(_checks.message("values", got, "different conditions, one or more"))
        if self.control is not None:
            _checks.count(self.control, "control", low=0, high=len(values) - 1)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(c.name for c in self.covariates)

    @property
    def features(self) -> int:
        """Features of a token, e."""
        return sum(c.width for c in self.covariates)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Each condition as people write it."""
        return tuple(self.text(v) for v in self.values)

    def text(self, condition: Condition) -> str:
        """Return a `condition` as people write it; one text for equal conditions."""
        return ", ".join(self.told(condition).values()) or "any"

    def told(self, condition: Condition) -> dict[str, str]:
        """Return the values that a `condition` tells, as people write them, by covariate."""
        value = self._named(condition)
        return {c.name: c.text(value[c.name]) for c in self.covariates if c.name in value}

    def read(self, text: str) -> Condition:
        """Return the condition that a `text` such as ``"drug=A+B,dose=3"`` names.

        Of the only covariate, ``"A+B"`` will do.
        """
        known = {c.name: c for c in self.covariates}
        parts = [part.partition("=") for part in text.split(",")]
        if len(known) == 1 and parts[0][0].strip() not in known:
            parts = [(self.names[0], "=", text)]
        told = {_checks.choice(n.strip(), known, "condition"): v.strip() for n, _, v in parts}
        return {name: known[name].read(value) for name, value in told.items()}

    def code(self, condition: Condition) -> int | None:
        """Return the code of a `condition` that cells were under; None for another one."""
        text = self.text(condition)
        return self.texts.index(text) if text in self.texts else None

    def codes(self, condition: Condition) -> tuple[int, ...]:
        """Return the codes of the conditions that agree with what `condition` tells."""
        told = self.told(condition).items()
        agree = (told <= self.told(value).items() for value in self.values)
        return tuple(code for code, same in enumerate(agree) if same)

    def context(self, *conditions: Condition) -> Context:
        """Return what a network is told.

        Parameters
        ----------
        *conditions
            Conditions, all of the experiment when omitted. Covariates that one does not tell have
            no token.
        """
        each = [self._tokens(self._named(c)) for c in conditions or self.values]
        most = max(1, *(len(tokens) for tokens in each))
        tokens = torch.zeros(len(each), most, self.features, dtype=torch.float64)
        present = torch.zeros(len(each), most, dtype=torch.bool)
        for k, some in enumerate(each):
            tokens[k, : len(some)], present[k, : len(some)] = some, True
        return Context(tokens, present)

    def strata(self) -> tuple[tuple[int, ...], ...]:
        """Return the codes of each stratum: of conditions that couplings do not tell apart.

        Their order is that of the conditions' texts, whatever the codes.
        """
        kept = [c for c in self.covariates if c.name not in self.across]
        groups: dict[tuple[str, ...], list[int]] = {}
        for code in sorted(range(len(self)), key=self.texts.__getitem__):
            key = tuple(c.text(self.values[code][c.name]) for c in kept)
            groups.setdefault(key, []).append(code)
        return tuple(tuple(codes) for _, codes in sorted(groups.items()))

    def control_of(self, condition: Condition) -> int | None:
        """Return the code of the control for `condition`, of the same donor where there is one."""
        if self.control is None:
            return None
        told = self._named(condition)
        own = {name: told[name] for name in self.nuisance if name in told}
        alike = self.code({**self.values[self.control], **own})
        return self.control if alike is None else alike

    def facts(self) -> dict[str, Any]:
        """Return what :meth:`from_facts` makes the conditions of, as JSON can hold it."""
        kinds = {kind: name for name, kind in COVARIATES.items()}
        own = [{"kind": kinds[type(c)], **asdict(c)} for c in self.covariates]  # type: ignore[call-overload] # dataclasses
        rest = {"control": self.control, "across": self.across, "nuisance": self.nuisance}
        return {"covariates": own, "values": [dict(v) for v in self.values], **rest}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Conditions:
        """Return the conditions that their `facts` tell of."""
        own = ({**some} for some in facts["covariates"])
        covariates = tuple(COVARIATES[some.pop("kind")](**some) for some in own)
        return cls(covariates, *(facts[k] for k in ("values", "control", "across", "nuisance")))

    def _named(self, condition: Condition) -> Mapping[str, Value]:
        """Return a condition with the names of its covariates, of which it may leave out some."""
        names = self.names
        named = isinstance(condition, Mapping) and set(condition) <= set(names)
        if named or len(names) > 1:
            if not isinstance(condition, Mapping):
                expected = f"values by covariate: {', '.join(names)}"
                raise ValueError(_checks.message("condition", repr(condition), expected))
            for name in condition:
                _checks.choice(name, names, "condition")
            return condition  # type: ignore[return-value] # its keys are covariates
        return {names[0]: condition}  # type: ignore[dict-item] # a value of the only covariate

    def _whole(self, condition: Condition) -> Mapping[str, Value]:
        """Return a condition that tells all covariates."""
        value = self._named(condition)
        missing = [name for name in self.names if name not in value]
        if missing:
            raise ValueError(_checks.message("values", f"none of {missing}", "all covariates"))
        return value

    def _tokens(self, value: Mapping[str, Value]) -> Tensor:
        """Return the tokens of a condition, ``(m, e)``."""
        found, start = [], 0
        for c in self.covariates:
            if c.name in value:
                own = c.tokens(value[c.name])
                wide = own.new_zeros(len(own), self.features)
                wide[:, start : start + c.width] = own
                found.append(wide)
            start += c.width
        return torch.cat(found) if found else torch.zeros(0, self.features, dtype=torch.float64)
