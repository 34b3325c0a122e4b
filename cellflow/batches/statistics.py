"""How coupling went, over all plans of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from cellflow import _checks
from cellflow.plans import Plan


@dataclass
class CouplingHealth:
    """Health of couplings: counts, worst cases, and time spent.

    Counted are `plans`; `fallbacks` among them, which are not what was asked for, since a solver
    did not converge, with the `reason` of the first and whether it was `announced`; and those
    `unconverged`, whose solver did not reach its tolerance. The `marginal_error` is the largest of
    a plan. Sums over plans are `cost`; effective `partners` of a cell and their `share` of the
    cells there are; and the mass without descendants, `childless`, and left out, `unmatched`.
    Coupling took so many `seconds` of work, by whichever thread, and training `waited` so many for
    pairs.
    """

    plans: int = 0
    fallbacks: int = 0
    unconverged: int = 0
    marginal_error: float = 0.0
    cost: float = 0.0
    partners: float = 0.0
    share: float = 0.0
    childless: float = 0.0
    unmatched: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    reason: str | None = None
    announced: bool = field(default=False, compare=False)

    def add(self, plan: Plan) -> None:
        """Count `plan`."""
        if not isinstance(plan, Plan):  # by a subclass of Coupling, which is not looked after
            got = f"{type(plan).__name__} from a Coupling"
            raise TypeError(_checks.message("coupling", got, "a Plan", "Hand out PairPlan(…)."))
        self.plans += 1
        self.marginal_error = max(self.marginal_error, plan.marginal_error)
        self.cost += plan.cost
        self.partners += plan.partners
        self.share += plan.partners / plan.shape[1]
        self.childless += plan.childless
        self.unmatched += plan.unmatched
        self.unconverged += not plan.converged
        if plan.fallback is not None:
            self.fallbacks += 1
            self.reason = self.reason or plan.fallback

    def merge(self, other: CouplingHealth) -> None:
        """Count what `other` has counted, and warn at the first fallback."""
        for name in (f.name for f in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "marginal_error":
                self.marginal_error = max(mine, theirs)
            elif name == "reason":
                self.reason = mine or theirs
            elif name != "announced":
                setattr(self, name, mine + theirs)
        self.announce()

    def announce(self) -> None:
        """Warn of the first fallback, once."""
        if self.reason is None or self.announced:
            return
        self.announced = True
        _checks.warn(
            f"A coupling is not the one asked for: {self.reason}. "
            "Further ones are counted in the history, not announced.",
            RuntimeWarning,
        )

    def summary(self) -> dict[str, float]:
        """Return counts, worst marginal error, and means over plans."""
        plans = max(self.plans, 1)
        return {
            "plans": self.plans,
            "fallbacks": self.fallbacks,
            "unconverged": self.unconverged,
            "marginal_error": self.marginal_error,
            "mean_cost": self.cost / plans,
            "mean_partners": self.partners / plans,
            "mean_partner_share": self.share / plans,
            "mean_childless": self.childless / plans,
            "mean_unmatched": self.unmatched / plans,
            "seconds": self.seconds,
            "waited": self.waited,
        }
