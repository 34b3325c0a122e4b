"""Least action: one law of motion for all times, found by simulating from snapshot to snapshot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from tqdm import tqdm

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import ArrayLike, Field, Tensor
from cellflow.batches import Batching, CouplingHealth, PairSampler
from cellflow.couplings import Coupling, Exact, Independent
from cellflow.couplings.coupling import as_coupling
from cellflow.fits.fit import Fit
from cellflow.methods.method import Method
from cellflow.networks import MLPConfig, NetworkConfig, Units, as_network_config
from cellflow.paths import Pairs, Path, Straight
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import canonical, to_device
from cellflow.training.loop import run
from cellflow.training.networks import assemble, build_networks
from cellflow.training.options import FitOptions
from cellflow.training.prepare import check_units, fingerprint
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer, Training

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
    coupling: Coupling = field(default_factory=Exact)
    path: ClassVar[Path] = Straight(0.0)  # not met: cells move along the field
    score: ClassVar[bool] = False
    growth: ClassVar[bool] = False
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

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        """Learn the dynamics of `course`, in this process alone; see :meth:`Method.fit_with`."""
        if options.group.world > 1:
            remedy = "Its steps couple the cells that they have moved."
            raise ValueError(_checks.message("group", options.group.world, "1", remedy))
        seed, steps = options.seed, options.steps
        model = course if preprocessing is None else course.map(preprocessing.apply)
        model = to_device(model if self.knows_rows else canonical(model), options)
        units = Units.of(model)
        x = model.snapshots[0].x
        check_units(self, units, x.dtype)
        networks = build_networks(self, units, seed=seed).to(x)
        *_, weight, bias = networks["velocity"].parameters()
        for parameter in (weight, bias):  # at rest, from where the slower motion is found
            nn.init.zeros_(parameter)
        dynamics = assemble(self, networks, model.times)
        if options.progress:
            tqdm.write(f"{self.name}: training on {x.device}, {x.dtype}", file=sys.stderr)
        # Cells are drawn as for pairs; they are paired after they have moved.
        seed = stream_seed(seed, 0, 11)
        sampler = PairSampler(model, Independent(), self.batching, seed, CouplingHealth())
        health = CouplingHealth()
        terms = self.objective(dynamics.velocity, health)
        trainer = Trainer(networks, terms, units.scale**2, self.training, steps)
        try:
            with threads_for(self.net, x.device):
                history = run(
                    trainer,
                    lambda step: self.shots(sampler.batch(step), step, steps),
                    None,
                    fingerprint=fingerprint(self, [model], options),
                    options=options,
                )
        finally:
            sampler.close()
        history.coupling = health.summary() | {"unused": sampler.unused}
        return Fit(dynamics, self, course, networks, preprocessing, history)

    def shots(self, pairs: Pairs, step: int, steps: int) -> Shots:
        """Return the batch of `step` of `steps`: unrelated `pairs`, and the action's weight."""
        left = max(0.0, 1 - step / (_COOLING * steps))
        return Shots(pairs, self.action * (self.first_action / self.action) ** left, step)

    def objective(
        self, velocity: Field, health: CouplingHealth
    ) -> Callable[[Shots], dict[str, Tensor]]:
        """Return the loss terms of `velocity`, in squared data units; `health` counts plans."""
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
            return {"miss": torch.stack(misses).mean(), "action": batch.weight * action.mean()}

        return terms


@dataclass(frozen=True, eq=False)
class Shots:
    """Cells at both ends of every interval, in turn, and the weight of the action."""

    pairs: Pairs
    weight: float
    step: int
    share: float = 1.0


def travel(velocity: Field, pairs: Pairs, substeps: int) -> tuple[Tensor, Tensor]:
    r"""Carry the first cells of `pairs` along `velocity` to the time of the second.

    By so many `substeps` of the classical Runge-Kutta method. Return the ends ``(n, d)`` and the
    action of each cell ``(n,)``, its span times :math:`\int \lVert v \rVert^2 dt`: never less than
    the squared distance between start and end.
    """
    x, h = pairs.x0, pairs.span / substeps
    action = x.new_zeros(len(x))
    for k in range(substeps):
        parts = ((k + part) / substeps for part in (0.0, 0.5, 1.0))
        t = [torch.lerp(pairs.t0, pairs.t1, part)[:, 0] for part in parts]
        first = velocity(t[0], x)
        second = velocity(t[1], x + h / 2 * first)
        third = velocity(t[1], x + h / 2 * second)
        fourth = velocity(t[2], x + h * third)
        move = h / 6 * (first + 2 * (second + third) + fourth)
        action = action + substeps * move.square().sum(1)
        x = x + move
    return x, action


def path_energy(fit: Fit, x: ArrayLike | None = None, *, substeps: int = 50) -> float:
    r"""Mean over cells of :math:`\int \lVert v(t, X_t) \rVert^2 dt` over the course of `fit`.

    Of the cells `x` ``(n, d)`` at its first time, those of the first snapshot when omitted, moved
    by so many `substeps` of :func:`travel`. Times the span it is at least their mean squared
    distance from where they end, and equal to it where they move straight and evenly.
    """
    cells = fit.course.snapshots[0].x if x is None else _checks.as_cells(x, "x")
    cells = cells.to(next(fit.networks.parameters()))
    start, end = (
        cells.new_full((len(cells), 1), t) for t in fit.course.times[:: len(fit.course) - 1]
    )
    _, action = travel(fit.velocity, Pairs(cells, cells, start, end), substeps)
    return float((action / (end - start)[:, 0]).mean())
