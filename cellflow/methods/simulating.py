"""Methods that simulate the field while they learn it: by likelihood, and by least action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import distributions, nn

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Field, Tensor
from cellflow.batches import Batching, CouplingHealth, PairSampler
from cellflow.couplings import Coupling, Exact, Independent
from cellflow.couplings.coupling import as_coupling
from cellflow.dynamics import along_probes, rademacher
from cellflow.fits.fit import Fit
from cellflow.logging import say
from cellflow.methods.method import METHODS, Method
from cellflow.networks import MLPConfig, NetworkConfig, Units, as_network_config
from cellflow.paths import Pairs, Path, Straight
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.simulate.energy import polygon_energy
from cellflow.simulate.flow import nodes
from cellflow.timecourse import Snapshot, TimeCourse
from cellflow.training.cells import canonical, refuse_conditions, to_device
from cellflow.training.loop import run
from cellflow.training.networks import Parts, assemble, build_networks
from cellflow.training.options import FitOptions
from cellflow.training.prepare import check_units, fingerprint
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer, Training

#: Dimensions up to which a step of training takes the whole divergence, and not a probe of it.
EXACT = 4
#: Share of the steps over which the weight of the action falls to its final value.
_COOLING = 0.7


@dataclass(frozen=True, eq=False)
class Shots:
    """Cells at both ends of every interval, in turn, of a `step` of training."""

    pairs: Pairs
    step: int
    share: float = 1.0


class Simulating(ABC):
    """What methods share that simulate the field while they learn it, and learn nothing else.

    Fits are made in one process. They hold no cells back, and the field begins at rest.
    """

    default_steps: ClassVar[int] = 1000
    score: ClassVar[bool] = False
    growth: ClassVar[bool] = False

    @abstractmethod
    def begin(
        self, velocity: Field, model: TimeCourse, *, options: FitOptions, health: CouplingHealth
    ) -> tuple[Callable[[Shots], dict[str, Tensor]], float]:
        """Return the loss terms of `velocity` on the cells of `model`, and their unit.

        The `options` have the steps and the seed; plans are counted in `health`.
        """

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        """Learn the dynamics of `course`: see :meth:`Method.fit_with`."""
        parts = cast(Parts, self)
        refuse_conditions(course, parts.name)
        if options.group.world > 1:
            remedy = "Its steps move cells, from snapshot to snapshot."
            raise ValueError(_checks.message("group", options.group.world, "1", remedy))
        model = course if preprocessing is None else course.map(preprocessing.apply)
        model = to_device(model if parts.coupling.knows_rows else canonical(model), options)
        units = Units.of(model)
        x = model.snapshots[0].x
        check_units(parts, units, x.dtype)
        networks = build_networks(parts, units, seed=options.seed).to(x)
        *_, weight, bias = networks["velocity"].parameters()
        for parameter in (weight, bias):  # at rest, from where the slower motion is found
            nn.init.zeros_(parameter)
        dynamics = assemble(parts, networks, model.times)
        say(f"{parts.name}: training on {x.device}, {x.dtype}", show=options.progress)
        # Cells are drawn as for pairs; what pairs them, if anything, is where they move to.
        drawn = stream_seed(options.seed, 0, 11)
        sampler = PairSampler(model, Independent(), parts.batching, drawn, CouplingHealth())
        health = CouplingHealth()
        terms, unit = self.begin(dynamics.velocity, model, options=options, health=health)
        trainer = Trainer(networks, terms, unit, parts.training, options.steps)
        try:
            with threads_for(parts.net, x.device):
                history = run(
                    trainer,
                    lambda step: Shots(sampler.batch(step), step),
                    None,
                    fingerprint=fingerprint(parts, [model], options),
                    options=options,
                )
        finally:
            sampler.close()
        told = health if health.plans else sampler.health
        history.coupling = told.summary() | {"unused": sampler.unused}
        return Fit(dynamics, parts, course, networks, preprocessing, history)


@METHODS.register("cnf")
@dataclass(frozen=True)
class CNF(Simulating, Method):
    r"""Continuous normalizing flow through a time course, as TrajectoryNet (Tong et al. 2020).

    A normal law with the mean and the standard deviations of the first snapshot, one mean interval
    before it (:meth:`prior`), flows through all snapshots. The field maximises the likelihood of
    their cells, :cite:`tong2020` (section 3) and FFJORD :cite:`grathwohl2019`,

    .. math:: \max_v \sum_k \mathbb E_{x \sim \mu_k} \log p_{t_k}(x), \qquad
        \log p_t(x_t) = \log p_0(x_0) - \int_0^t \nabla \cdot v(s, x_s)\, ds,

    less the penalties of :cite:`finlay2020` on :math:`\int \lVert v \rVert^2` and
    :math:`\int \lVert \nabla v \rVert_F^2`, which straighten and smooth the flow. Cells go back
    through all intervals before theirs in every step, so that it is far slower than methods that do
    not simulate, the more so the more snapshots there are; it learns neither score nor growth, and
    fits populations, not which cell becomes which. Losses are in nats a cell.

    ``fit.log_prob`` begins from the prior as well. To draw from it, simulate from there:
    ``law, time = method.prior(course)``, with `course` in model coordinates.

    Noise of standard deviation `sigma`, in model coordinates, is added to cells: the density is
    that of the cells blurred by it, without which it could be infinite at each. The weights of the
    penalties, `kinetic` and `jacobian`, are relative to network units of velocity and time; `net`,
    `batching`, `training`, `name` and `substeps` are as in :class:`Shooting`.
    """

    coupling: ClassVar[Coupling] = Independent()  # not asked: cells are not paired
    sigma: float = 0.1
    _: KW_ONLY
    net: NetworkConfig = MLPConfig()
    batching: Batching = Batching(batch_size=128, prefetch=False)
    training: Training = Training(learning_rate=5e-3, ema=0.99, validation=0.0)
    name: str = "cnf"
    kinetic: float = 0.01
    jacobian: float = 0.01
    substeps: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "net", as_network_config(self.net))
        for name in ("sigma", "kinetic", "jacobian"):
            object.__setattr__(self, name, _checks.number(getattr(self, name), name, low=0.0))
        _checks.count(self.substeps, "substeps")

    @property
    def path(self) -> Path:
        """Noise around the cells of a snapshot."""
        return Straight(self.sigma)

    def prior(self, course: TimeCourse) -> tuple[Density, float]:
        first, (start, *_, end) = course.snapshots[0], course.times
        w, x = first.weights.to(first.x)[:, None], first.x.detach()
        mean = (w * x).sum(0)
        variance = (w * (x - mean).square()).sum(0) + self.sigma**2
        std = variance.clamp(min=1e-6 * float(variance.mean()) or 1.0).sqrt()
        law = distributions.Independent(distributions.Normal(mean, std), 1)
        return law, start - (end - start) / (len(course) - 1)

    def begin(
        self, velocity: Field, model: TimeCourse, *, options: FitOptions, health: CouplingHealth
    ) -> tuple[Callable[[Shots], dict[str, Tensor]], float]:
        # In nats, on cells that are blurred by the seed; no plan is made. One nat a dimension.
        base, begins = self.prior(model)
        units, d = Units.of(model), model.dim
        times = [begins, *model.times]
        noise = torch.Generator(model.x.device)

        def terms(batch: Shots) -> dict[str, Tensor]:
            noise.manual_seed(stream_seed(options.seed, batch.step, 12))
            pairs, size = batch.pairs, self.batching.batch_size
            clouds = [pairs.x0[:size], *pairs.x1.split(size)]
            state = pairs.x0.new_empty(0, d + 3)
            for cells, (before, now) in zip(clouds[::-1], list(pairwise(times))[::-1], strict=True):
                blur = torch.randn(cells.shape, generator=noise, device=noise.device).to(cells)
                seen = torch.cat([cells + self.sigma * blur, cells.new_zeros(len(cells), 3)], 1)
                state = torch.cat([state, seen])
                probes = torch.eye(d, device=state.device)[:, None]
                if d > EXACT:
                    probes = rademacher((1, len(state), d), noise)
                slope = _backward(velocity, now, before, probes.to(state))
                *_, state = nodes(slope, state, n_steps=self.substeps)
            change, kinetic, jacobian = state[:, d:].mean(0)
            return {
                "nats": -base.log_prob(state[:, :d]).mean() - change,
                "kinetic": self.kinetic / (units.speed**2 * units.span) * kinetic,
                "jacobian": self.jacobian * units.span * jacobian,
            }

        return terms, float(d)


def _backward(
    velocity: Field, now: float, before: float, probes: Tensor
) -> Callable[[float, Tensor], Tensor]:
    """Return the slope, from `now` at 0 to `before` at 1, of cells and of three integrals.

    Of the divergence, the squared velocity and the squared Jacobian, by `probes` ``(k, n, d)``.
    """
    d, h = probes.shape[2], before - now

    def slope(u: float, state: Tensor) -> Tensor:
        t = state.new_full((), now + u * h, dtype=_checks.time_dtype(state.device))
        v, rows = along_probes(velocity, t, state[:, :d], probes=probes)
        divergence, squares = (rows * probes).sum((0, 2)), rows.square().sum((0, 2))
        rates = torch.stack([h * divergence, -h * v.square().sum(1), -h * squares], 1)
        return torch.cat([h * v, rates], 1)

    return slope


@dataclass(frozen=True)
class Shooting(Simulating, Method):
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

    The `coupling` is of simulated with observed cells. One law at all times has the shape `net`,
    ``MLPConfig(time=False)``; of `batching` only the cells of each interval in a step matter; by
    `training`, no cells are held back to validate on. Tables and files call the method by its
    `name`. The weight of the `action` starts at `first_action`, and there are so many `substeps` of
    Runge and Kutta per interval while training.
    """

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

    def begin(
        self, velocity: Field, model: TimeCourse, *, options: FitOptions, health: CouplingHealth
    ) -> tuple[Callable[[Shots], dict[str, Tensor]], float]:
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
