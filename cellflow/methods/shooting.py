"""Least action: one law of motion for all times, found by simulating from snapshot to snapshot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._random import draw_seed, stream_seed
from cellflow._typing import Field, Rng, Tensor
from cellflow.batches import Batching, CouplingHealth, PairSampler
from cellflow.couplings import Coupling, Exact, Independent
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.networks import MLPConfig, Units
from cellflow.paths import Pairs, Path, Straight
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.loop import Checkpointing, train
from cellflow.training.networks import assemble, build_networks
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer, Training

#: Share of the steps over which the weight of the action falls to its final value.
_COOLING = 0.7


@dataclass(frozen=True)
class Shooting(FlowMatching):
    r"""Least action among the fields that carry each snapshot into the next.

    .. math:: \min_v \sum_k W_2^2\big(\phi_{t_k \to t_{k+1}} \# \mu_k,\; \mu_{k+1}\big)
        + \lambda\, h_k \int_{t_k}^{t_{k+1}} \mathbb E \lVert v(t, X_t) \rVert^2 dt

    with :math:`\phi` the flow of `v`, :math:`h_k` the span, and :math:`\lambda` falling from
    `first_action` to `action`. The field is simulated while it is learned, from every snapshot to
    the next (multiple shooting), and starts at rest. Costs and energy are those of MIOFlow (Huguet
    et al. 2022) and TrajectoryNet (Tong et al. 2020); what is ours is that by default the field
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
    path
        Not met: cells move along the field.
    net
        Shape of the network; ``MLPConfig(time=False)`` for one law at all times.
    batching
        Cells of each interval in a step; nothing else of it matters.
    training
        How the network is trained; no cells are held back to validate on.
    name
        What tables and files call this method.
    score, growth, direct_velocity, relative_sigma
        Must be left False.
    action, first_action
        Last and first weight of the action.
    substeps
        Runge-Kutta steps per interval while training.

    Raises
    ------
    ValueError
        If a number is out of its range, or a score or growth is asked for.
    """

    coupling: Coupling = field(default_factory=Exact)
    path: Path = field(default_factory=lambda: Straight(0.0))
    net: MLPConfig = MLPConfig(time=False)
    batching: Batching = Batching(batch_size=100, prefetch=False)
    training: Training = Training(learning_rate=5e-3, ema=0.99, validation=0.0)
    name: str = "shooting"
    action: float = 1e-3
    first_action: float = 0.1
    substeps: int = 8

    def __post_init__(self) -> None:
        _checks.number(self.action, "action", low=0.0, open_low=True)
        _checks.number(self.first_action, "first_action", low=self.action)
        _checks.count(self.substeps, "substeps")
        for name in ("score", "growth", "direct_velocity", "relative_sigma"):
            if getattr(self, name):
                raise ValueError(_checks.message(name, "True", "False", "It is not learned."))

    def fit(
        self,
        course: TimeCourse,
        *,
        steps: int = 1000,
        generator: Rng = 0,
        preprocessing: Preprocessing | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: Checkpointing | None = None,
        progress: bool = True,
        ranks: ProcessGroup | None = None,
    ) -> Fit:
        """Learn the dynamics that carry each snapshot into the next.

        Parameters
        ----------
        course, steps, generator, preprocessing, device, dtype, checkpointing, progress
            As in :meth:`FlowMatching.fit`; a thousand steps are enough.
        ranks
            One: every step couples all the cells that it has moved.

        Returns
        -------
        The fit, which can simulate, and be saved.

        Raises
        ------
        ValueError
            If an argument is out of its range.
        FloatingPointError
            If training diverges.
        """
        _checks.count(steps, "steps")
        if ranks is not None and ranks.world > 1:
            remedy = "Its steps couple the cells that they have moved."
            raise ValueError(_checks.message("ranks", ranks.world, "1", remedy))
        seed = draw_seed(generator)
        model = self.prepare(course, preprocessing, device=device, dtype=dtype)
        units = Units.of(model)
        x = model.snapshots[0].x
        networks = build_networks(self, units, seed=seed).to(x)
        last = networks["velocity"].layers[-1]  # type: ignore[index] # an MLP's
        for parameter in last.parameters():  # at rest, from where the slower motion is found
            nn.init.zeros_(parameter)
        dynamics = assemble(self, networks, model.times)
        if progress:
            tqdm.write(f"{self.name}: training on {x.device}, {x.dtype}", file=sys.stderr)
        # Cells are drawn as for pairs, but who meets whom is seen after they have moved.
        sampler = PairSampler(
            model, Independent(), self.batching, stream_seed(seed, 0, 11), CouplingHealth()
        )
        health = CouplingHealth()
        trainer = Trainer(
            networks,
            self.objective(dynamics.velocity, health),
            unit=units.scale**2,
            training=self.training,
            steps=steps,
        )
        try:
            with threads_for(self.net, x.device):
                history = train(
                    trainer,
                    lambda step: self.shots(sampler.batch(step), step, steps),
                    None,
                    checkpointing=checkpointing or Checkpointing(),
                    fingerprint=self.fingerprint([model], steps, seed),
                    progress=progress,
                )
        finally:
            sampler.close()
        history.coupling = health.summary() | {"unused": sampler.unused}
        return Fit(dynamics, self, course, networks, preprocessing, history)

    def shots(self, pairs: Pairs, step: int, steps: int) -> Any:
        """Return the batch of a step: cells, and the weight of the action by then.

        Parameters
        ----------
        pairs
            Cells at both ends of every interval, in turn; in no relation to each other.
        step, steps
            Number of the step and budget.
        """
        left = max(0.0, 1 - step / (_COOLING * steps))
        return Shots(pairs, self.action * (self.first_action / self.action) ** left, step)

    def objective(self, velocity: Field, health: CouplingHealth) -> Callable[[Any], dict]:
        """Return the loss terms of a batch, in squared data units.

        Parameters
        ----------
        velocity
            The field to learn.
        health
            Where plans are counted.
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
            return {"miss": torch.stack(misses).mean(), "action": batch.weight * action.mean()}

        return terms


@dataclass(frozen=True, eq=False)
class Shots:
    """Cells to carry over every interval.

    Parameters
    ----------
    pairs
        Cells at both ends of every interval, in turn.
    weight
        Weight of the action.
    step
        Number of the step.
    """

    pairs: Pairs
    weight: float
    step: int


def travel(velocity: Field, pairs: Pairs, substeps: int) -> tuple[Tensor, Tensor]:
    r"""Carry the first cells of `pairs` along `velocity` to the time of the second.

    Parameters
    ----------
    velocity
        The field.
    pairs
        Where and when to start, and when to stop.
    substeps
        Classical Runge-Kutta steps.

    Returns
    -------
    The ends, shape ``(n, d)``, and the action of each cell, its span times
    :math:`\int \lVert v \rVert^2 dt`, shape ``(n,)`` in squared data units: never less than the
    squared distance between start and end.
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
