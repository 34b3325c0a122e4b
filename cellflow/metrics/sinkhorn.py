"""Sinkhorn divergence between samples."""

from __future__ import annotations

from functools import partial

from cellflow import _checks
from cellflow._typing import ArrayLike, Tensor
from cellflow.costs import half_squared_distance
from cellflow.metrics.metric import Metric, as_clouds, metric
from cellflow.plans import DENSE_LIMIT
from cellflow.transport.entropic.marginals import Marginal, Marginals, Problem
from cellflow.transport.entropic.solve import solve

#: L1 error of the marginals, whose square is that of the value; bound on sweeps and Newton steps.
TOLERANCE, MAX_ITER = 1e-9, 5000


@metric("sinkhorn", partial(Metric, label="Sinkhorn divergence", exponent=2, of_holdouts=False))
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_mass: ArrayLike | None = None,
    y_mass: ArrayLike | None = None,
    epsilon: float | None = None,
) -> float:
    r"""Debiased entropic transport cost between two weighted clouds (:cite:`feydy2019`, eq. 3).

    .. math:: S_\varepsilon(x, y) = T_\varepsilon(x, y) - \tfrac12 T_\varepsilon(x, x)
       - \tfrac12 T_\varepsilon(y, y), \quad T_\varepsilon = \min_\pi\, \langle \pi, c \rangle
       + \varepsilon\, \mathrm{KL}(\pi \mid a \otimes b)

    for the half squared distance, in squared data units: between half the squared
    :math:`W_2`, for a small ε, and half the squared distance of the means, for a large one. Never
    negative, and zero only for equal clouds (theorem 1); samples tell it from zero with far fewer
    cells than :math:`W_2` where ε is not small.

    Parameters
    ----------
    x, y, x_mass, y_mass
        As in :func:`wasserstein1`; up to 25 million pairs of cells.
    epsilon
        Regularisation in squared data units; 0.05 of the mean cost between the clouds if omitted.
    """
    clouds = as_clouds(x, y, x_mass=x_mass, y_mass=y_mass)
    most, allowed = max(len(clouds.x), len(clouds.y)), round(DENSE_LIMIT**0.5)
    if most > allowed:
        remedy = "Draw fewer cells, or use sliced_wasserstein2 or energy_distance."
        got, expected = f"{most:,} cells", f"at most {allowed:,}"
        raise ValueError(_checks.message("x", got, expected, remedy))
    if epsilon is None:
        between = half_squared_distance(clouds.x, clouds.y)
        epsilon = 0.05 * float(clouds.a @ between @ clouds.b) or 1.0
    _checks.number(epsilon, "epsilon", low=0.0, open_low=True)
    left, right = (clouds.x, clouds.a), (clouds.y, clouds.b)
    within = _cost(left, left, epsilon) + _cost(right, right, epsilon)
    return max(_cost(left, right, epsilon) - within / 2, 0.0)


def _cost(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], epsilon: float) -> float:
    """Return the least regularised cost between cells of some masses, by its dual."""
    (x, a), (y, b) = left, right
    cost = half_squared_distance(x, y)
    if x is y:
        cost.fill_diagonal_(0.0)  # rounding makes a cell apart from itself
    problem = Problem(cost, Marginals(Marginal(a), Marginal(b), relative=True), epsilon)
    s = solve(problem, tolerance=TOLERANCE, max_iter=MAX_ITER)
    if not s.error <= 1e-6:
        got, remedy = f"a marginal error of {s.error:.2g}", "Take a larger `epsilon`."
        raise RuntimeError(_checks.message("epsilon", got, "a solved problem", remedy))
    return float(a @ s.f + b @ s.g)
