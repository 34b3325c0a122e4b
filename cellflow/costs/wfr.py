"""Cost by which cells move, grow and shrink: Wasserstein-Fisher-Rao transport."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.costs.cost import COSTS, Cost, cells_of
from cellflow.costs.distances import distance
from cellflow.timecourse import Snapshot, TimeCourse

#: Share of the mass that a pair beyond the range moves: costs stay finite.
LEAST = 1e-6


@COSTS.register("wfr")
@dataclass(frozen=True)
class WassersteinFisherRao(Cost):
    r"""Cost of Wasserstein-Fisher-Rao transport, in squared data units.

    .. math:: c(x, y) = -4\delta^2 \log \cos \min\!\left(\frac{\lVert x - y\rVert}{2\delta},
        \frac\pi2\right)

    The Wasserstein-Fisher-Rao (Hellinger-Kantorovich) distance is the least action
    :math:`\int\!\!\int \tfrac12 (\lVert v \rVert^2 + \delta^2 g^2)\,dm\,ds` of velocities v and
    growth rates g. It is the least cost of a plan with both marginals relaxed by
    :math:`2\delta^2\,\mathrm{KL}` (:cite:`chizat2018unbalanced`; :cite:`liero2018`):
    :class:`cellflow.couplings.Reach` with this cost, which takes the relaxation from it. With a
    large δ it is the half squared distance.

    The length `delta` says how dear growth is beside moving. When omitted, :math:`2\delta^2` is the
    mean half squared distance between the cells of consecutive snapshots. Beyond
    :math:`\pi\delta` mass only dies and is born; there the cost is finite, that at which a
    millionth of the mass moves.
    """

    delta: float | None = None

    def __post_init__(self) -> None:
        if self.delta is not None:
            _checks.number(self.delta, "delta", low=0.0, open_low=True)

    def __call__(self, source: Snapshot, target: Snapshot) -> Tensor:
        delta = self._measured([(source, target)])
        cosine = (distance(*cells_of(source, target)) / (2 * delta)).clamp_(max=math.pi / 2).cos_()
        return cosine.clamp_(min=LEAST).log_().mul_(-4 * delta * delta).clamp_(min=0.0)

    def reach(self, source: Snapshot, target: Snapshot) -> float:
        return 2 * self._measured([(source, target)])

    def fitted_to(self, course: TimeCourse) -> Self:
        return replace(self, delta=self._measured(course.steps))

    def _measured(self, steps: Sequence[tuple[Snapshot, Snapshot]]) -> float:
        """Return `delta`, or what it is for these pairs of snapshots."""
        if self.delta is not None:
            return self.delta
        costs = []
        for source, target in steps:
            x, y = cells_of(source, target)
            centre = target.weights @ y
            parts = zip((source, target), (x, y), strict=True)
            costs.append(sum(float(s.weights @ (z - centre).square().sum(1)) for s, z in parts) / 2)
        return math.sqrt(sum(costs) / len(costs) / 2) or 1.0
