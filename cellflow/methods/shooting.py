"""Least action: one law of motion for all times, found by simulating from snapshot to snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Field, Tensor
from cellflow.batches import Batching, CouplingHealth
from cellflow.couplings import Coupling, Exact
from cellflow.couplings.coupling import as_coupling
from cellflow.fits.fit import Fit
from cellflow.methods.method import Method
from cellflow.methods.simulating import Shots, fit_by_simulating
from cellflow.networks import MLPConfig, NetworkConfig, Units, as_network_config
from cellflow.paths import Pairs, Path, Straight
from cellflow.preprocessing import Preprocessing
from cellflow.simulate.energy import polygon_energy
from cellflow.simulate.flow import nodes
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.options import FitOptions
from cellflow.training.trainer import Training

#: Share of the steps over which the weight of the action falls to its final value.
_COOLING = 0.7


@dataclass(frozen=True)
class Shooting(Method):
    r"""Least action among the fields that carry each snapshot into the next.

    .. math:: \min_v \sum_k W_2^2\big(\phi_{t_k \to t_{k+1}} \# \mu_k,\; \mu_{k+1}\big)
        + \lambda\, h_k \int_{t_k}^{t_{k+1}} \mathbb E \lVert v(t, X_t) \rVert^2 dt

    with :math:`\phi` the flow of `v`, :math:`h_k` the span, and :math:`\lambda` falling from
    `first_action` to `action`. The field is simulated while it is learned, from every snapshot to
    the next (multiple shooting), and starts at rest. Costs and energy are those of MIOFlow
    :cite:`huguet2022` and TrajectoryNet :cite:`tong2020`; what is ours is that by default the field
    does not depend on time. All intervals then inform one law of motion, which bends where paths
    between neighbours, straight or splines, do not. Where several such laws pass through all
    snapshots the one of least action is taken, which cuts corners: snapshots half a turn apart say
    neither which way round nor how wide the turn was, and only the action decides.

    It is slower than methods that do not simulate, learns neither score nor growth, and does not
    fit a population whose law of motion changes with time: give ``net=MLPConfig()`` for that.

    Parameters
    ----------
    coupling
        Of simulated with observed cells.
    net
        Shape of the network; ``MLPConfig(time=False)`` for one law at all times.
    batching
        Cells of each interval in a step; nothing else of it matters.
    training
        How the network is trained; no cells are held back to validate on.
    name
        What tables and files call this method.
    action, first_action
        Last and first weight of the action.
    substeps
        Runge-Kutta steps per interval while training.
    """

    default_steps: ClassVar[int] = 1000
    score: ClassVar[bool] = False
    growth: ClassVar[bool] = False
    coupling: Coupling = field(default_factory=Exact)
    path: ClassVar[Path] = Straight(0.0)  # not met: cells move along the field
    net: NetworkConfig = MLPConfig(time=False)
    batching: Batching = Batching(batch_size=100, prefetch=False)
    training: Training = Training(learning_rate=5e-3, ema=0.99, validation=0.0)
    name: str = "shooting"
    action: float = 1e-3
    first_action: float = 0.1
    substeps: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "coupling", as_coupling(self.coupling))
        object.__setattr__(self, "net", as_network_config(self.net))
        _checks.number(self.action, "action", low=0.0, open_low=True)
        _checks.number(self.first_action, "first_action", low=self.action)
        _checks.count(self.substeps, "substeps")

    def weight(self, step: int, steps: int) -> float:
        """Return the weight of the action at `step` of `steps`."""
        left = max(0.0, 1 - step / (_COOLING * steps))
        return self.action * (self.first_action / self.action) ** left

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        return fit_by_simulating(
            self, course, options, preprocessing=preprocessing, begin=self.begin
        )

    def begin(
        self, velocity: Field, model: TimeCourse, *, options: FitOptions, health: CouplingHealth
    ) -> tuple[Callable[[Shots], dict[str, Tensor]], float]:
        """Return the loss terms of `velocity`, in squared data units, and their unit.

        It is that of the cells of `model`; `options` have the steps, and `health` counts plans.
        """
        size = self.batching.batch_size

        def terms(batch: Shots) -> dict[str, Tensor]:
            pairs = batch.pairs
            end, action = travel(velocity, pairs, self.substeps)
            if not bool(torch.isfinite(end).all()):
                raise FloatingPointError(
                    f"Simulated cells left for infinity at step {batch.step}. Lower "
                    f"`learning_rate` (now {self.training.learning_rate:g}) or raise `substeps`."
                )
            misses = []
            for moved, seen in zip(end.split(size), pairs.x1.split(size), strict=True):
                plan = self.coupling(Snapshot(moved.detach(), 0.0), Snapshot(seen, 1.0))
                health.add(plan)
                health.announce()
                rows, cols = plan.sample(len(moved), stream_seed(0, batch.step, 16))
                misses.append((moved[rows] - seen[cols]).square().sum(1).mean())
            weight = self.weight(batch.step, options.steps)
            return {"miss": torch.stack(misses).mean(), "action": weight * action.mean()}

        return terms, Units.of(model).scale ** 2


def travel(velocity: Field, pairs: Pairs, substeps: int) -> tuple[Tensor, Tensor]:
    r"""Carry the first cells of `pairs` along `velocity` to the time of the second.

    By so many `substeps` of the classical Runge-Kutta method. Return the ends ``(n, d)`` and the
    action of each cell ``(n,)``, its span times :math:`\int \lVert v \rVert^2 dt`: never less than
    the squared distance between start and end.
    """

    def slope(u: float, x: Tensor) -> Tensor:
        return pairs.span * velocity(torch.lerp(pairs.t0, pairs.t1, u)[:, 0], x)

    states = torch.stack([pairs.x0, *nodes(slope, pairs.x0, n_steps=substeps)])
    return states[-1], polygon_energy(states)
