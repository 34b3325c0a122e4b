"""The table of solvers."""

from __future__ import annotations

from dataclasses import dataclass

from cellflow.simulate.integrate.fixed import Step
from cellflow.simulate.integrate.stochastic import NoisyStep
from cellflow.simulate.steps import euler, midpoint, rk4, sra1
from cellflow.simulate.steps import euler_maruyama as em


@dataclass(frozen=True)
class Solver:
    """An entry of the table of solvers.

    Parameters
    ----------
    order
        Order of convergence on an ODE.
    step
        The step of a fixed-step solver; None for those that torchdyn runs.
    noisy_step
        The step of a stochastic solver, which runs `step` where sigma is zero; None for others.
    strong_order
        Strong order of a stochastic solver where the noise is additive; None for others.
    uses_mean
        Whether a stochastic solver looks at the mean of the motion over a step.
    """

    order: int
    step: Step | None = None
    noisy_step: NoisyStep | None = None
    strong_order: float | None = None
    uses_mean: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws noise."""
        return self.noisy_step is not None


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler.ORDER, euler.euler),
    "midpoint": Solver(midpoint.ORDER, midpoint.midpoint),
    "rk4": Solver(rk4.ORDER, rk4.rk4),
    "dopri5": Solver(5),
    "tsit5": Solver(5),
    "euler_maruyama": Solver(em.ORDER, em.euler_maruyama, em.euler_maruyama, em.STRONG_ORDER),
    "sra1": Solver(sra1.ORDER, sra1.sra1, sra1.sra1, sra1.STRONG_ORDER, uses_mean=True),
}
