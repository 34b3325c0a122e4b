r"""Ground costs, and the one place where their convention is stated.

**Convention.** The transport cost is the *half* squared distance
:math:`c(x, y) = \tfrac12 \lVert x - y \rVert^2`. Against it, an entropic plan with
:math:`\varepsilon = \sigma^2 \cdot \text{span}` is the static Schrödinger bridge of the Brownian
reference :math:`\sigma\, dW` over a time ``span`` (for the full squared distance, as in POT's
``reg``, it is twice that).

Couplings that take a `cost` find their pairs by another one, as in ``Exact(cost="cosine")``: see
:func:`as_cost`. What a plan says of its cost stays that of the half squared distance, so that plans
can be compared. Distances along the data are a coupling, :class:`cellflow.couplings.Geodesic`.
"""

from cellflow import _doors
from cellflow.costs.added import Added
from cellflow.costs.cost import COSTS, Cost, CostLike, as_cost
from cellflow.costs.distances import (
    brownian_epsilon,
    distance,
    half_squared_distance,
    squared_distance,
)
from cellflow.costs.of_cells import UNKNOWN, Clones, Cosine, Euclidean, HalfSquared
from cellflow.costs.spectral import Spectral
from cellflow.costs.wfr import WassersteinFisherRao

__all__ = [
    "COSTS",
    "UNKNOWN",
    "Added",
    "Clones",
    "Cosine",
    "Cost",
    "CostLike",
    "Euclidean",
    "HalfSquared",
    "Spectral",
    "WassersteinFisherRao",
    "as_cost",
    "brownian_epsilon",
    "distance",
    "half_squared_distance",
    "squared_distance",
]

_doors.guard(__name__)
