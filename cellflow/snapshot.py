"""A snapshot: cells of a population at one time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from cellflow import _checks, _doors
from cellflow._typing import ArrayLike, Tensor


@_doors.door
@dataclass(frozen=True, eq=False)
class Snapshot:
    """Cells observed at one time.

    Parameters
    ----------
    x
        Cell states, shape ``(n, d)``.
    time
        Real time, in the user's unit (days unless said otherwise).
    mass
        Mass of each cell, shape ``(n,)``, positive; uniform with total one when omitted.
    labels
        Optional label of each cell (a condition, a cell type), length ``n``; kept as text.
    growth
        Optional prior net growth rate of each cell (birth minus death, per unit of time), ``(n,)``.
    condition
        Optional code of each cell's condition, ``(n,)`` whole numbers: its position among the
        conditions of a :class:`TimeCourse`.
    velocity
        Optional measured velocity of each cell, such as RNA velocity, per unit of time, ``(n, d)``.
    """

    x: Tensor
    time: float
    mass: Tensor = None  # type: ignore[assignment] # a tensor once constructed
    labels: Sequence[str] | None = None
    growth: Tensor | None = None
    condition: Tensor | None = None
    velocity: Tensor | None = None

    if TYPE_CHECKING:  # arrays are converted

        def __init__(
            self,
            x: ArrayLike,
            time: float,
            mass: ArrayLike | None = None,
            labels: Sequence[str] | None = None,
            growth: ArrayLike | None = None,
            condition: ArrayLike | None = None,
            velocity: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        x = _checks.as_cells(self.x, "x")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "time", _checks.number(self.time, "time"))
        n = x.shape[0]
        mass = x.new_full((n,), 1.0 / n) if self.mass is None else _per_cell(self.mass, "mass", x)
        if not bool(torch.isfinite(mass).all() and (mass > 0).all()):
            got = f"values from {mass.min():g} to {mass.max():g}"
            raise ValueError(
                _checks.message("mass", got, "positive finite", "Drop cells without mass.")
            )
        object.__setattr__(self, "mass", mass)
        if self.labels is not None:
            object.__setattr__(self, "labels", [str(label) for label in self.labels])
            if len(self.labels) != n:
                raise ValueError(_checks.message("labels", f"{len(self.labels)} labels", f"{n}"))
        if self.growth is not None:
            growth = _per_cell(self.growth, "growth", x)
            if not bool(torch.isfinite(growth).all()):
                got, remedy = "NaN or infinite values", "Use 0 where unknown."
                raise ValueError(_checks.message("growth", got, "finite rates", remedy))
            object.__setattr__(self, "growth", growth)
        if self.condition is not None:
            codes = _per_cell(self.condition, "condition", x)
            if not bool(((codes >= 0) & (codes == codes.round())).all()):
                raise ValueError(_checks.message("condition", "other numbers", "codes from 0 on"))
            object.__setattr__(self, "condition", codes.long())
        if self.velocity is not None:
            velocity = _checks.as_cells(self.velocity, "velocity").to(x)
            if velocity.shape != x.shape:
                got, expected = f"shape {tuple(velocity.shape)}", f"{tuple(x.shape)}, as of x"
                raise ValueError(_checks.message("velocity", got, expected))
            object.__setattr__(self, "velocity", velocity)

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        return f"Snapshot({len(self)} cells × {self.x.shape[1]} dimensions, time={self.time:g})"

    @cached_property
    def total_mass(self) -> float:
        """Sum of the masses."""
        return float(self.mass.double().sum())

    @property
    def weights(self) -> Tensor:
        """Masses scaled to sum to one, shape ``(n,)``, in float64."""
        mass = self.mass.double()
        return mass / mass.sum()

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all cells carry the same mass."""
        return bool((self.mass == self.mass[0]).all())

    def subset(self, index: Tensor) -> Snapshot:
        """Return the cells at `index` (a long tensor), with all that is known of them."""
        _checks.rows(index, len(self), "index")
        return Snapshot(self.x[index], self.time, self.mass[index], *self.rest(index))

    def rest(self, index: Tensor | slice) -> tuple[Any, ...]:
        """Return labels, growth, conditions and velocities of the cells at `index`, if known."""
        labels = self.labels
        if labels is not None:
            at = range(len(self))[index] if isinstance(index, slice) else index.tolist()
            labels = [labels[i] for i in at]
        known = (self.growth, self.condition, self.velocity)
        return labels, *(None if v is None else v[index] for v in known)

    def shuffled(self, most: int, generator: torch.Generator) -> Snapshot:
        """Return its cells in random order by a CPU `generator`, `most` of them at most."""
        order = torch.randperm(len(self), generator=generator)[: _checks.count(most, "most")]
        return self.subset(order.to(self.x.device))

    @property
    def effective(self) -> float:
        """Effective number of cells: of as many equal masses a mean would be as uncertain."""
        w = self.weights
        return float(w.sum() ** 2 / w.square().sum())


def joined(parts: Sequence[Snapshot]) -> Snapshot:
    """Return the cells of `parts`, snapshots at one time, as one, with their masses.

    It has labels, and conditions, where all parts have them.
    """
    if len(parts) == 1:
        return parts[0]
    every = all(s.labels is not None for s in parts)
    labels = [label for s in parts for label in s.labels or ()] if every else None
    x, mass = torch.cat([s.x for s in parts]), torch.cat([s.mass for s in parts])
    known = [s.condition for s in parts if s.condition is not None]
    code = torch.cat(known) if len(known) == len(parts) else None
    return Snapshot(x, parts[0].time, mass, labels, condition=code)


def totals(mass: Tensor, number: Tensor) -> Tensor:
    """Return the sums of `mass` over the cells of each `number`, both ``(n,)``, in float64."""
    last = int(number.max())
    if last == 0:
        return mass.double().sum()[None]
    return mass.new_zeros(last + 1, dtype=torch.float64).index_add(0, number, mass.double())


def _per_cell(values: ArrayLike, name: str, x: Tensor) -> Tensor:
    """Return one number per cell, in the dtype and on the device of the cells `x`."""
    out = _checks.as_numbers(values, name).to(x)
    if out.shape != x.shape[:1]:
        raise ValueError(_checks.message(name, f"shape {tuple(out.shape)}", f"({len(x)},)"))
    return out
