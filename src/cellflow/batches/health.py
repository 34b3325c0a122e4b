"""How coupling went, over all plans of a fit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from cellflow.couplings import Plan


@dataclass
class CouplingHealth:
    """What happened while coupling: counts, worst cases, and time spent.

    Parameters
    ----------
    plans
        Plans made.
    fallbacks
        Plans whose solver failed and that the exact solver replaced.
    marginal_error
        Largest marginal error of a plan.
    cost, partners
        Sums over plans of cost and of effective partners per cell.
    seconds
        Time spent coupling, in seconds.
    """

    plans: int = 0
    fallbacks: int = 0
    marginal_error: float = 0.0
    cost: float = 0.0
    partners: float = 0.0
    seconds: float = 0.0

    def add(self, plan: Plan) -> None:
        """Count `plan`, and warn at the first fallback."""
        self.plans += 1
        self.marginal_error = max(self.marginal_error, plan.marginal_error)
        self.cost += plan.cost
        self.partners += plan.partners
        if plan.fallback is not None:
            self.fallbacks += 1
            if self.fallbacks == 1:
                warnings.warn(
                    f"A coupling fell back to the exact solver: {plan.fallback}. "
                    "Further ones are counted in the history, not announced.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def summary(self) -> dict[str, float]:
        """Return counts, worst marginal error, and means over plans."""
        plans = max(self.plans, 1)
        return {
            "plans": self.plans,
            "fallbacks": self.fallbacks,
            "marginal_error": self.marginal_error,
            "mean_cost": self.cost / plans,
            "mean_partners": self.partners / plans,
            "seconds": self.seconds,
        }
