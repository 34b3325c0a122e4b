"""Cost of leaving a clone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost
from cellflow.timecourse import Snapshot

#: Label of a cell whose clone is not known.
UNKNOWN = ""


@COSTS.register("clones")
@dataclass(frozen=True)
class Clones(Cost):
    """Zero within a clone and one elsewhere; to be :class:`Added` to a cost of states.

    Labels of cells are their clones, or :data:`UNKNOWN`, who are at one from all. Raises ValueError
    for cells without labels.
    """

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        numbers = {UNKNOWN: 0}
        if source.labels is None or target.labels is None:
            remedy = "Give Snapshot(..., labels=clones), or couple the whole snapshots."
            raise ValueError(_checks.message("labels", "none", "the clones of all cells", remedy))
        clones = source.labels, target.labels
        codes = ([numbers.setdefault(clone, len(numbers)) for clone in some] for some in clones)
        a, b = (torch.tensor(code, device=source.x.device) for code in codes)
        return (~((a[:, None] == b) & (b != 0))).double()
