"""Entropic optimal transport: the static Schrödinger bridge."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cellflow import _checks
from cellflow.costs import brownian_epsilon, half_squared_distance
from cellflow.couplings._pair import centred, l1_error
from cellflow.couplings.exact import Exact
from cellflow.couplings.plans import DensePlan, Plan
from cellflow.couplings.sinkhorn import solve
from cellflow.timecourse import Snapshot

#: Regularisation, relative to the mean cost, below which a plan is the exact one.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Entropic:
    r"""Pair cells by entropic optimal transport for the cost :math:`\tfrac12\lVert x - y\rVert^2`.

    With `sigma`, the regularisation is :math:`\varepsilon = \sigma^2 \cdot \text{span}`: the plan
    is the static Schrödinger bridge of the Brownian reference :math:`\sigma\,dW` (Léonard, 2014,
    "A survey of the Schrödinger problem", section 2), and follows the time between the snapshots.
    With `epsilon` it is the same for all spans.

    Solved in the log domain in float64, on the device of the cells: no regularisation
    underflows. If the solver does not converge all the same, the exact plan takes its place and
    says so in `fallback`. Below a millionth of the mean cost, ε makes no difference that could be
    seen (the cost of the plan rises by at most :math:`\varepsilon \log n`), and the exact plan is
    what is returned.

    Parameters
    ----------
    sigma
        Diffusion of the reference, data units per square root of time; positive.
    epsilon
        Regularisation in squared data units, for the half squared distance; positive. Exactly
        one of `sigma` and `epsilon` is given. (POT's ``reg`` for the full squared distance is
        twice `epsilon`.)
    tolerance
        L1 error of the marginals that counts as converged.
    max_iter
        Bound on the number of Sinkhorn sweeps and Newton steps together.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of `sigma` and `epsilon` is given, or an argument is out of bounds.

    Examples
    --------
    >>> import torch
    >>> from cellflow.timecourse import Snapshot
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> narrow, wide = Entropic(sigma=0.1), Entropic(sigma=10.0)
    >>> source, target = Snapshot(x, 0.0), Snapshot(x, 2.0)
    >>> round(narrow(source, target).partners, 3), round(wide(source, target).partners, 3)
    (1.0, 2.0)
    """

    sigma: float | None = None
    epsilon: float | None = None
    tolerance: float = field(default=1e-6, kw_only=True)
    max_iter: int = field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        if (self.sigma is None) == (self.epsilon is None):
            got = "neither" if self.sigma is None else "both"
            raise ValueError(
                _checks.message(
                    "sigma, epsilon",
                    got,
                    "exactly one of them",
                    "Give `sigma` for a Brownian reference.",
                )
            )
        for name in ("sigma", "epsilon"):
            value = getattr(self, name)
            if value is not None:
                value = _checks.number(value, name, low=0.0, open_low=True)
                object.__setattr__(self, name, value)
        _checks.number(self.tolerance, "tolerance", low=0.0, high=1.0, open_low=True)
        _checks.count(self.max_iter, "max_iter")

    def __call__(self, source: Snapshot, target: Snapshot) -> Plan:
        """Couple two snapshots.

        Parameters
        ----------
        source, target
            Snapshots of n and m cells; with `sigma`, the target is the later one.

        Returns
        -------
        The plan: its ``(n, m)`` matrix, or pairs where the exact plan had to replace it.

        Raises
        ------
        TypeError, ValueError
            If the snapshots do not fit each other.
        """
        x, y = centred(source, target)
        epsilon = self.epsilon_for(source, target)
        masses = source.weights, target.weights
        # Centred each on its own mean: the plan is the same, the costs are smaller.
        cost = half_squared_distance(x - x.mean(0), y - y.mean(0))
        if epsilon < NEGLIGIBLE * float(cost.mean()):
            return Exact()(source, target)
        s = solve(
            cost,
            masses,
            epsilon=epsilon,
            tolerance=self.tolerance,
            max_iter=self.max_iter,
        )
        if not s.error <= self.tolerance:  # also when it is not a number
            reason = (
                f"sinkhorn did not converge at epsilon {epsilon:.3g}: marginal error "
                f"{s.error:.2g} after {s.iterations} iterations"
            )
            return replace(Exact()(source, target), fallback=reason)
        matrix = s.plan / s.plan.sum()
        return DensePlan(
            matrix=matrix,
            cost=float((matrix * half_squared_distance(x, y)).sum()),
            marginal_error=l1_error((matrix.sum(1), matrix.sum(0)), masses),
        )

    def epsilon_for(self, source: Snapshot, target: Snapshot) -> float:
        """Regularisation between two snapshots.

        Parameters
        ----------
        source, target
            The snapshots, of which only the times matter.

        Returns
        -------
        ε for the half squared distance, in squared data units.

        Raises
        ------
        ValueError
            If `sigma` is given and the target is not later than the source.
        """
        if self.sigma is None:
            return float(self.epsilon)
        return brownian_epsilon(self.sigma, target.time - source.time)
