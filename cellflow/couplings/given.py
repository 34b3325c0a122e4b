"""A coupling computed elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from cellflow import _checks
from cellflow.couplings.coupling import COUPLINGS, Coupling, check_pair
from cellflow.couplings.entropic import Entropic
from cellflow.plans.forms import PairPlan
from cellflow.plans.reading import Matrix, entries_of, plan_of
from cellflow.timecourse import Snapshot


@COUPLINGS.register("given")
@dataclass(frozen=True, eq=False)
class Given(Coupling):
    """Pair cells by a plan computed elsewhere (moscot, Waddington-OT, lineage barcodes, …).

    The plan is scaled to total mass one and otherwise kept: rows may carry more mass than others,
    as in Waddington-OT's maps, where they are weighted with growth. The plan's `marginal_error`
    is its distance from the masses of the snapshots.

    The `plan` is an ``(n, m)`` array, tensor or scipy sparse matrix; an object that has one as
    ``.transport_matrix`` (moscot) or ``.X`` (an AnnData of Waddington-OT); or a mapping from pairs
    of times ``(source time, target time)`` to such plans. Rows are source cells, in the order of
    the snapshot.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> plan = Given([[3.0, 1.0], [0.0, 4.0]])(Snapshot(x, 0.0), Snapshot(x, 1.0))
    >>> plan.mass.tolist(), plan.cost
    ([0.375, 0.125, 0.5], 0.25)
    """

    needs_whole: ClassVar[bool] = True
    knows_rows: ClassVar[bool] = True

    plan: object = field(repr=False)
    _parts: dict[tuple[float, ...], Matrix] = field(init=False, repr=False)  # by times, or ()

    def __post_init__(self) -> None:
        parts: dict[tuple[float, ...], Matrix] = {}
        for key, value in self.plan.items() if isinstance(self.plan, Mapping) else ():
            if not isinstance(key, tuple) or len(key) != 2:
                got, expected = f"key {key!r}", "pairs of times as keys"
                raise ValueError(_checks.message("plan", got, expected))
            parts[float(key[0]), float(key[1])] = entries_of(value, f"plan[{key!r}]")
        if not isinstance(self.plan, Mapping):
            parts[()] = entries_of(self.plan, "plan")
        object.__setattr__(self, "_parts", parts)

    def __call__(self, source: Snapshot, target: Snapshot) -> PairPlan:
        check_pair(source, target)
        return plan_of(self._find(source.time, target.time), source, target, name="plan")

    @classmethod
    def example(cls, source: Snapshot, target: Snapshot) -> Given:
        return cls(3.0 * Entropic(epsilon=0.5, tolerance=1e-9)(source, target).dense())

    @property
    def digest(self) -> str:
        digest = hashlib.sha256()
        for times, (*arrays, shape) in sorted(self._parts.items()):
            digest.update(repr((times, shape, [len(a) for a in arrays])).encode())
            for array in arrays:
                digest.update(array.tobytes())
        return digest.hexdigest()

    def _find(self, start: float, end: float) -> Matrix:
        """Return the pairs for two times."""
        for times, pairs in self._parts.items():
            if not times or np.allclose(times, (start, end), atol=1e-9):
                return pairs
        known = f"one of {sorted(self._parts)}"
        raise KeyError(_checks.message("plan", f"times {(start, end)}", known))
