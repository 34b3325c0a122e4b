"""What a solver is, and the registry that its file enters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cellflow._registry import Registry
from cellflow._typing import Tensor
from cellflow.simulate.field import RescaledField
from cellflow.simulate.noise import Drawn


class Step(Protocol):
    """One explicit step of a fixed-step solver."""

    def __call__(
        self, field: RescaledField, x: Tensor, slope: Tensor, *, u: float, h: float
    ) -> Tensor:
        """Advance `x` ``(n, d)`` from ``u`` to ``u + h``, given the field there."""


class NoisyStep(Protocol):
    """One explicit step of a stochastic solver; without noise, of a fixed-step one."""

    def __call__(
        self,
        field: RescaledField,
        x: Tensor,
        slope: Tensor,
        *,
        u: float,
        h: float,
        noise: Drawn = None,
    ) -> Tensor:
        """Advance `x` ``(n, d)`` from ``u`` to ``u + h``, given the field there."""


Weights = tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    r"""Embedded pair of explicit Runge-Kutta methods, with a polynomial between the nodes.

    Of the `order` of the solution, it has weights of the stages before each stage, in units of the
    step (`a`), and the times of the stages (`c`), of which the last is at the solution, and so the
    first of the next step; weights of the stages in the difference of the two solutions (`error`),
    and in the term :math:`\theta^2 (1 - \theta)^2` that the polynomial has beyond the cubic through
    both ends and their slopes (`quartic`).
    """

    order: int
    a: tuple[Weights, ...]
    c: Weights
    error: Weights
    quartic: Weights


@dataclass(frozen=True)
class Solver:
    """Member of the registry `SOLVERS`, which a file in ``steps/`` enters by its name.

    Its `order` is that on an ODE. A fixed-step solver has a `step`, an adaptive one has a `pair`
    in its place. A stochastic one has a `noisy_step`, runs `step` where sigma is zero, has a
    `strong_order` for additive noise, and says by `uses_mean` whether it looks at the mean of the
    motion over a step. A fit takes `steps_per_interval` from snapshot to snapshot by default.
    """

    order: int
    step: Step | None = None
    pair: Pair | None = None
    noisy_step: NoisyStep | None = None
    strong_order: float | None = None
    uses_mean: bool = False
    steps_per_interval: int = 10

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its steps."""
        return self.step is None

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws noise."""
        return self.noisy_step is not None


#: Solvers by name.
SOLVERS: Registry[Solver] = Registry("cellflow.simulate.steps")
