"""Continuous normalizing flows: maximum likelihood along a time course."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import distributions

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import Field, Tensor
from cellflow.batches import Batching, CouplingHealth
from cellflow.couplings import Coupling, Independent
from cellflow.dynamics import along_probes, rademacher
from cellflow.fits.fit import Fit
from cellflow.methods.method import METHODS, Method
from cellflow.methods.simulating import Shots, fit_by_simulating
from cellflow.networks import MLPConfig, NetworkConfig, Units, as_network_config
from cellflow.paths import Path, Straight
from cellflow.preprocessing import Preprocessing
from cellflow.simulate import Density
from cellflow.simulate.flow import nodes
from cellflow.timecourse import TimeCourse
from cellflow.training.options import FitOptions
from cellflow.training.trainer import Training

#: Dimensions up to which a step of training takes the whole divergence, and not a probe of it.
EXACT = 4


@METHODS.register("cnf")
@dataclass(frozen=True)
class CNF(Method):
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

    default_steps: ClassVar[int] = 1000
    score: ClassVar[bool] = False
    growth: ClassVar[bool] = False
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

    def fit_with(
        self, course: TimeCourse, options: FitOptions, preprocessing: Preprocessing | None = None
    ) -> Fit:
        return fit_by_simulating(
            self, course, options, preprocessing=preprocessing, begin=self.begin
        )

    def begin(
        self, velocity: Field, model: TimeCourse, *, options: FitOptions, health: CouplingHealth
    ) -> tuple[Callable[[Shots], dict[str, Tensor]], float]:
        """Return the loss terms of `velocity`, in nats, and their unit: one nat a dimension.

        On cells of `model`, blurred by the seed of `options`; no plan is made for `health`.
        """
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
