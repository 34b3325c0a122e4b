"""Flow matching: the method that trains networks on pairs of cells, without simulating."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch

from cellflow import _checks
from cellflow._typing import Tensor
from cellflow.batches import Batching
from cellflow.clock import CLOCKS, Clock
from cellflow.costs import CostLike
from cellflow.couplings.coupling import Coupling, as_coupling
from cellflow.fits.fit import Fit
from cellflow.fits.report import coupling_report
from cellflow.logging import say
from cellflow.methods.method import Method
from cellflow.networks import MLPConfig, NetworkConfig, as_network_config
from cellflow.paths import TIMESTEPS, Path
from cellflow.paths.prediction import PREDICTIONS
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.timecourse import TimeCourse
from cellflow.training.cells import canonical, natural_sigma
from cellflow.training.options import FitOptions
from cellflow.training.prepare import prepare
from cellflow.training.train_on_pairs import train_on_pairs
from cellflow.training.trainer import Training

T = TypeVar("T", Coupling, Path)


@dataclass(frozen=True)
class FlowMatching(Method):
    """Simulation-free flow and score matching: hyperparameters, without data.

    A coupling pairs cells, a path says where a pair is met between. The published methods are
    recipes of this class, such as :func:`~cellflow.methods.OTCFM` and
    :func:`~cellflow.methods.SF2M`.

    Parameters
    ----------
    coupling
        From two snapshots to a plan.
    path
        Between paired cells.
    net
        Shape of the networks, or networks of one's own: an ``nn.Module`` for the velocity alone,
        or a function ``(units, answer)`` that makes one for each answer. Time comes as ``(n,)``,
        cells as ``(n, d)``, both centred and scaled; see
        :func:`~cellflow.networks.as_network_config`. With the ``networks`` of an earlier fit,
        training goes on from there. To load such a fit, give ``load(folder, net=...)``.
    batching
        How pairs are made.
    training
        How the networks are trained.
    name
        What tables and files call this method.
    score
        Whether to learn the score beside the velocity, for stochastic dynamics. The velocity of
        the path's mean is then regressed, and the noise's part of the velocity taken from the
        score: regressed directly :cite:`tong2024simulation`, its variance diverges at the ends.
    growth
        Whether to learn the growth rate beside the velocity, from the masses of the plans.
    relative_sigma
        Whether the sigmas of coupling and path are multiples of the data's own:
        :func:`~cellflow.training.cells.natural_sigma`. The method of a fit has absolute ones.
    both_sides
        Whether a population between two snapshots is predicted from both of them.
    clock
        How time passes for the dynamics: ``"physical"``, as for the user, ``"distance"``, so
        that cells travel evenly (:meth:`cellflow.clock.Clock.by_distance`), or ``"tempered"``, by
        the geometric mean of both. Answers are in the
        user's time either way; a sigma is per root of the clock's time.
    predict
        What the network of a path from noise answers with: ``"velocity"``, ``"noise"``,
        ``"score"`` or ``"target"``, from any of which the velocity follows; that of any other
        path, with the velocity.
    timesteps
        Where on their paths pairs are met: ``"uniform"``, ``"logit_normal"``, ``"mode"`` or
        ``"cosmap"`` (:cite:`esser2024`), or a function from uniform numbers to fractions.
    times_per_pair
        How often each pair of a step is met, at times and with noise of their own.
    """

    coupling: Coupling
    path: Path
    net: NetworkConfig = MLPConfig()
    batching: Batching = Batching()
    training: Training = Training()
    name: str = "flow_matching"
    score: bool = False
    growth: bool = False
    relative_sigma: bool = False
    both_sides: bool = False
    clock: str = "physical"
    predict: str = "velocity"
    timesteps: str | Callable[[Tensor], Tensor] = "uniform"
    times_per_pair: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "coupling", as_coupling(self.coupling))
        object.__setattr__(self, "net", as_network_config(self.net))
        _checks.choice(self.clock, CLOCKS, "clock")
        _checks.choice(self.predict, PREDICTIONS, "predict")
        if isinstance(self.timesteps, str):
            _checks.choice(self.timesteps, TIMESTEPS, "timesteps")
        elif callable(self.timesteps):
            s = self.timesteps(torch.linspace(0.01, 0.99, 99)[:, None])
            if s.shape != (99, 1) or not bool(((s >= 0) & (s <= 1)).all()):
                got, expected = f"one with values up to {s.max():g}", "one with fractions, (n, 1)"
                raise ValueError(_checks.message("timesteps", got, expected))
        _checks.count(self.times_per_pair, "times_per_pair")
        path, predict = self.path, f"{self.predict!r} on a {type(self.path).__name__}"
        if self.predict != "velocity" and not path.source_free:
            expected = "'velocity', or a path from noise such as VariancePreserving()"
            raise ValueError(_checks.message("predict", predict, expected))
        if self.predict == "score" and path.heavy_tailed:
            raise ValueError(_checks.message("predict", predict, "'noise': it is not normal"))
        if path.source_free and (self.score or self.growth):
            expected = "a path between cells, to learn score or growth beside the velocity"
            raise ValueError(_checks.message("path", type(path).__name__, expected))

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        if self.path.source_free:
            expected = "a path between cells: one from noise leaves the earlier ones out"
            remedy = "To generate one cloud from noise, take cellflow.methods.Generative."
            raise ValueError(_checks.message("path", type(self.path).__name__, expected, remedy))
        from cellflow._numba import told_of_compilation

        with told_of_compilation(options.progress):
            return self.train(course, options, preprocessing)

    def train(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None
    ) -> Fit:
        """Do what :meth:`fit_with` does, with its arguments, of any path.

        On one from noise, the first of two snapshots of `course` only stands for that; see there
        for `options` and `preprocessing`.
        """
        clock = self.clock_of(course, options, preprocessing)
        model = course if clock is None else clock.retime(course)
        prepared = prepare(self, model, options, preprocessing=preprocessing)
        try:
            history = train_on_pairs(
                prepared.method,
                prepared.networks,
                prepared.dynamics,
                pairs=prepared.sampler.batch,
                held=prepared.held,
                units=prepared.units,
                options=options,
                fingerprint=prepared.facts,
                conditions=course.conditions,
            )
        finally:
            prepared.sampler.close()
        prepared.account(history)
        if options.progress:
            say(coupling_report(history.coupling))
        history = options.group.broadcast(lambda: history)  # the clocks of processes differ
        learned = prepared.dynamics, prepared.method, course, prepared.networks
        return Fit(*learned, preprocessing, history, clock=clock)

    def by_cost(self, cost: CostLike) -> Self:
        return replace(self, coupling=as_coupling(self.coupling).by_cost(cost))

    def prior(self, course: TimeCourse) -> tuple[Density, float] | None:
        return (self.path, course.times[0]) if self.path.source_free else None

    def clock_of(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Clock | None:
        """Return the clock of a fit to `course`; None for physical time.

        It is measured in the model coordinates of `preprocessing`, with the seed of `options`.
        """
        if self.clock == "physical":
            return None
        model = course if preprocessing is None else course.map(preprocessing.apply)
        seed, weight = options.seed, CLOCKS[self.clock]
        return options.group.broadcast(
            lambda: Clock.by_distance(canonical(model), seed, weight=weight)
        )

    def scaled_to(self, *courses: TimeCourse) -> Self:
        coupling, path = self.coupling, self.path
        if self.relative_sigma:
            unit = natural_sigma(*courses)
            coupling, path = _scaled(coupling, unit), _scaled(path, unit)
        coupling = coupling.fitted_to(courses[0])
        path = path.by_cost(coupling.ground)
        return replace(self, coupling=coupling, path=path, relative_sigma=False)


def _scaled(part: T, unit: float) -> T:
    """Return a coupling or path with its sigma, if it has one, in absolute units."""
    return part if part.sigma is None else replace(part, sigma=part.sigma * unit)  # type: ignore[type-var]
