"""Read the conditions of cells out of an AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellflow import _checks
from cellflow.conditions import Categorical, Condition, Conditions, Continuous, Covariate
from cellflow.conditions.covariates import Value
from cellflow.pp.access import column_of, labels_of, numbers_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: What a column can be said to hold.
KINDS = ("categories", "doses", "linear", "log")


@dataclass(frozen=True)
class ConditionKeys:
    """Columns of ``obs`` with the conditions of cells, and what is known of them.

    The columns with the conditions, `keys`, and those of them that couplings cross, `across`, and
    that predictions need not tell, `nuisance`, are as in :class:`~cellflow.conditions.Conditions`;
    a text is one of them. For `covariates` and `control` see :func:`cellflow.tl.fit`.
    """

    keys: str | Sequence[str] | None = None
    covariates: Mapping[str, object] | None = None
    control: Condition = None
    across: str | Sequence[str] | None = None
    nuisance: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("covariates", "control", "across", "nuisance"):
            if getattr(self, name) is not None and not self.columns:
                expected = "columns of obs with the conditions of cells"
                raise ValueError(_checks.message("condition_key", f"none, but {name}", expected))
        for what in ("covariates", "control"):
            named = getattr(self, what)
            for name in named if isinstance(named, Mapping) else ():
                _checks.choice(name, self.columns, what)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns with the conditions; none where cells have none."""
        return _several(self.keys, "condition_key")

    @property
    def told(self) -> Mapping[str, Any]:
        """What is told of the control, by column."""
        if self.control is None or isinstance(self.control, Mapping):
            return self.control or {}
        return {self.columns[0]: self.control}

    def read(self, adata: AnnData, kept: np.ndarray) -> tuple[Conditions, np.ndarray]:
        """Return the conditions of the cells `kept`, and the code of every cell, shape (n,)."""
        told = self.told
        covariates, texts = [], []
        known: dict[str, dict[str, Value]] = {}
        for key in self.columns:
            covariate, cells = self._column(adata, key, kept, told.get(key))
            text = {value: covariate.text(value) for value in sorted(set(cells))}
            known[key] = {text[value]: value for value in text}
            covariates.append(covariate)
            texts.append(np.array([text[value] for value in cells]))
        which, code = np.unique(np.stack(texts), axis=1, return_inverse=True)
        values = tuple(
            {key: known[key][str(text)] for key, text in zip(self.columns, some, strict=True)}
            for some in which.T
        )
        codes = np.zeros(adata.n_obs, dtype=np.int64)
        codes[kept] = code.reshape(-1)
        apart = _several(self.across, "across"), _several(self.nuisance, "nuisance")
        found = Conditions(tuple(covariates), values, None, *apart)
        if self.control is None:
            return found, codes
        wanted = found.text(told)
        like = [k for k, v in enumerate(values) if found.text({n: v[n] for n in told}) == wanted]
        if not like:
            expected = f"a condition of cells, such as {found.texts[0]!r}"
            raise ValueError(_checks.message("control", repr(wanted), expected))
        return replace(found, control=like[0]), codes

    def _column(
        self, adata: AnnData, key: str, kept: np.ndarray, none: Any
    ) -> tuple[Covariate, list[Any]]:
        """Return the covariate of a column, and its value in each of the cells `kept`.

        Control cells have the value `none`, if it is said.
        """
        table: Any = (self.covariates or {}).get(key)
        kind = table if isinstance(table, str) else None
        if table is None:
            column = column_of(adata, key, "condition_key")
            kind = "linear" if column.dtype.kind in "iuf" else "categories"
        if kind in ("linear", "log"):
            x = _numbers(adata, key, kept).tolist()
            return Continuous.of(key, sorted(set(x)), log=kind == "log"), x
        cells = labels_of(adata, key, kept, name="condition_key")[kept].tolist()
        plain = (
            isinstance(none, Mapping) or none is None or key in _several(self.nuisance, "nuisance")
        )
        none = None if plain else str(none)
        parts = {cell: _parts(cell) for cell in set(cells) - {none}}
        levels = sorted({level for some in parts.values() for level in some})
        if kind == "categories":
            return Categorical(key, tuple(levels), none=none), cells
        if kind == "doses":
            levels = sorted({level.rpartition(":")[0] or level for level in levels})
            return Categorical(key, tuple(levels), doses=True, none=none), cells
        if kind is not None and kind in adata.obs.columns:
            given = np.array([cell in parts for cell in cells])
            doses = _numbers(adata, kind, kept[given]).tolist()
            for k, dose in zip(np.flatnonzero(given), doses, strict=True):
                cells[k] = "+".join(f"{level}:{dose!r}" for level in parts[cells[k]])
            return Categorical(key, tuple(levels), doses=True, none=none), cells
        if kind is not None:
            table = adata.uns[_checks.choice(kind, [*KINDS, *adata.uns, *adata.obs.columns], key)]
        table = table.T if hasattr(table, "iloc") else table
        if not isinstance(table, Mapping) and not hasattr(table, "iloc"):
            expected = f"one of {', '.join(KINDS)}, a column of obs, a key of uns, or a table"
            raise TypeError(_checks.message(f"covariates[{key!r}]", type(table).__name__, expected))
        rows = {str(k): tuple(map(float, table[k])) for k in table if str(k) != none}
        for level in levels:
            _checks.choice(level, rows, f"covariates[{key!r}]")
        return Categorical(key, tuple(rows), tuple(rows.values()), none=none), cells


def times_of(adata: AnnData, key: str | None, control: Mapping[str, Any]) -> pd.Series:
    """Return the column `key` of ``obs``, whose values are times.

    Without one, that is 0 for the cells of the `control`, told by column, and 1 for all others.
    """
    import pandas as pd

    if key is not None:
        return column_of(adata, key, "time_key")
    if not control:
        expected = "a column of obs, or a `condition_key` and `control` to start from"
        raise ValueError(_checks.message("time_key", "None", expected))
    starts = np.ones(adata.n_obs, dtype=bool)
    for name, value in control.items():
        column = column_of(adata, name, "condition_key")
        wanted, kind = _alike(value, column.dtype.kind), column.dtype.kind
        same = [cell for cell in column.unique() if _alike(cell, kind) == wanted]
        starts &= column.isin(same).to_numpy()
    return pd.Series(np.where(starts, 0.0, 1.0))


def _alike(value: object, kind: str) -> object:
    """Return what is equal for the same condition: a number, or levels whatever their order."""
    with suppress(ValueError, TypeError):
        if kind in "iuf":
            return float(value)  # type: ignore[arg-type]
    return sorted(_parts(str(value)))


def _parts(cell: str) -> list[str]:
    """Return the levels that a text such as ``"A+B"`` names; ``"CD4+"`` is one."""
    parts = cell.split("+")
    return parts if all(parts) else [cell]


def _numbers(adata: AnnData, key: str, kept: np.ndarray) -> np.ndarray:
    """Return the numbers of a column of ``obs`` in the cells `kept`."""
    x = numbers_of(adata, key, "condition_key")[kept]
    if not np.isfinite(x).all():
        got = f"{int((~np.isfinite(x)).sum())} cells without a number"
        raise ValueError(_checks.message(f"obs[{key!r}]", got, "a finite number in every cell"))
    return x


def _several(value: str | Sequence[str] | None, name: str) -> tuple[str, ...]:
    """Return one text, or several, as a tuple."""
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else _checks.several(value, name)
    if not all(isinstance(text, str) for text in found):
        raise TypeError(_checks.message(name, "what is no text", "names of columns"))
    return tuple(found)
