"""Few steps: flows that are straightened, averaged or distilled, and the maps that they become."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import stream_rng
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.batches import Batching
from cellflow.couplings import Exact, Independent
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.iterated import STEPS_PER_INTERVAL, Iterated
from cellflow.methods.method import METHODS
from cellflow.methods.simulating import Shots
from cellflow.networks import MLPConfig, Network, NetworkConfig
from cellflow.paths import Pairs, Straight
from cellflow.simulate import simulate
from cellflow.training.loop import run
from cellflow.training.networks import assemble
from cellflow.training.options import FitOptions
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer, Training


@METHODS.register("rectified_flow")
def RectifiedFlow(  # noqa: N802
    sigma: float = 0.0,
    *,
    rounds: int = 2,
    net: NetworkConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> Iterated:
    """Rectified flow (Liu, Gong, Liu 2023, ICLR): rounds of reflow after :func:`ICFM`.

    Each round learns anew from the pairs of where a cell was and where the flow so far took it. No
    convex cost of transport grows (:cite:`liu2023`, theorem 3.5) and ways become straight (theorem
    3.7): the :func:`~cellflow.simulate.path_energy` falls towards W2², which it need not reach, and
    one step of Euler's comes near to the flow. The paper carries cells forward in every round,
    :class:`Iterated` backward in even ones: energy and W2 came out alike.

    Each of the `rounds` of reflow adds the errors of a network; `sigma`, `net`, `batching` and
    `training` are as in :func:`OTCFM`.
    """
    base = FlowMatching(Independent(), Straight(sigma), net, batching, training, name="icfm")
    return Iterated(base, rounds, name="rectified_flow")


@METHODS.register("mean_flow")
def MeanFlow(  # noqa: N802
    sigma: float = 0.1,
    *,
    net: MLPConfig = MLPConfig(),
    batching: Batching = Batching(),
    training: Training = Training(),
) -> FlowMatching:
    """MeanFlow (Geng et al. 2025, NeurIPS) on the pairs of OT-CFM.

    One network learns the velocity, by which the fit answers as any other, and its averages until
    any time before the next snapshot (:cite:`geng2025`, eq. 9), by which :class:`FewSteps` goes.

    With `sigma`, `net`, `batching` and `training` as in :func:`OTCFM`; the network is told until
    when as well.
    """
    if not isinstance(net, MLPConfig):  # others are not told until when
        raise TypeError(_checks.message("net", type(net).__name__, "an MLPConfig"))
    parts = Exact(), Straight(sigma), replace(net, average=True), batching, training
    return FlowMatching(*parts, name="mean_flow")


@dataclass(frozen=True, eq=False)
class FewSteps:
    r"""A map from the first snapshot to the last, :math:`x' = x + (t' - t)\, u(x, t, t')` by steps.

    The network of the `fit` answers with the average velocities `u`, of any step by
    :func:`MeanFlow`, of its own steps after :func:`distill`; of other fits without a score the
    steps are Euler's. So many `steps` lead from each snapshot to the next, even on its clock.
    """

    fit: Fit
    steps: int = 1

    def __post_init__(self) -> None:
        grids_of(self.fit, self.steps)
        if self.fit.dynamics.score is not None:
            got = f"one of {self.fit.method.name!r}, which has a score"
            raise ValueError(_checks.message("fit", got, "one without", "Distill it first."))

    def transport(self, x: ArrayLike) -> Tensor:
        """Carry cells `x` ``(n, d)`` of the first snapshot to the last, in data coordinates."""
        network, prep = cast(Network, self.fit.dynamics.velocity), self.fit.preprocessing
        z = self.fit.encoded(self.fit.course.times[0], x)[1]
        with torch.no_grad():
            for grid in grids_of(self.fit, self.steps):
                for t, until in pairwise(grid.to(z.device, _checks.time_dtype(z.device))):
                    z = z + (until - t).to(z) * network.between(t, until, z)
        return z if prep is None else prep.invert(z)


def distill(
    fit: Fit,
    *,
    steps: int = 1,
    budget: int = 2000,
    generator: Rng = 0,
    progress: bool | None = None,
) -> FewSteps:
    """Teach a copy of the velocity network to carry cells in `steps` from snapshot to snapshot.

    Observed cells are carried along the mean flow of `fit`, the teacher; by least squares, the copy
    learns the average velocity of each step from the place where it begins (:cite:`liu2023`,
    section 3.3). The `budget` is of training steps, with the settings of the fit's method;
    `generator` and `progress` are as in :class:`~cellflow.training.FitOptions`. The `fit` of what
    is returned can be saved; of times that no step begins at it knows nothing.
    """
    options = FitOptions(steps=budget, generator=generator, progress=progress)
    parts, old = fit.method.parts, cast(Network, fit.networks["velocity"])
    pool = ways_of(fit, grids_of(fit, steps))
    student = copy.deepcopy(old).requires_grad_(True)
    networks = nn.ModuleDict({"velocity": student})

    def draw(step: int) -> Shots:
        rng = stream_rng(options.seed, step, 19)
        rows = torch.randint(len(pool[0]), (parts.batching.batch_size,), generator=rng)
        return Shots(Pairs(*(values[rows.to(values.device)] for values in pool)), step)

    def terms(batch: Shots) -> dict[str, Tensor]:
        p = batch.pairs
        found = student.between(p.t0[:, 0], p.t1[:, 0], p.x0)
        return {"velocity": nn.functional.mse_loss(found, (p.x1 - p.x0) / p.span)}

    trainer = Trainer(networks, terms, student.units.speed**2, parts.training, budget)
    with threads_for(parts.net, pool[0].device):
        history = run(trainer, draw, None, fingerprint={}, options=options)
    if isinstance(parts, FlowMatching):
        name = f"{fit.method.name}_distilled"
        parts = replace(parts, name=name, score=False, growth=False)
    dynamics = assemble(parts, networks, student.units.knots)
    own = replace(fit, dynamics=dynamics, method=parts, networks=networks, history=history)
    return FewSteps(own, steps)


def grids_of(fit: Fit, steps: int) -> list[Tensor]:
    """Return the ends of the steps in each interval, in the time of the dynamics."""
    if fit.method.parts.path.source_free:  # its network answers with no velocity of cells
        got = f"one of {fit.method.name!r}, a model from noise"
        raise ValueError(_checks.message("fit", got, "one of a method between cells"))
    n, knots = _checks.count(steps, "steps"), cast(Network, fit.networks["velocity"]).units.knots
    if len(knots) != len(fit.course):
        expected = f"{len(knots)}: a condition with cells at all times"
        raise ValueError(_checks.message("fit", f"{len(fit.course)} snapshots", expected))
    return [torch.linspace(a, b, n + 1, dtype=torch.float64) for a, b in pairwise(knots)]


def ways_of(fit: Fit, grids: list[Tensor]) -> list[Tensor]:
    """Return both ends and times of the steps of every observed cell, in model coordinates."""
    ends = []
    for grid, source in zip(grids, fit.course.snapshots, strict=False):
        z, longest = fit.encoded(source.time, source.x)[1], float(grid[-1] - grid[0])
        way = simulate(fit.dynamics, z, grid, max_step=longest / STEPS_PER_INTERVAL).x
        t = grid.to(z.device, _checks.time_dtype(z.device))[:, None, None].expand(*way.shape[:2], 1)
        ends.append([v.flatten(0, 1) for v in (way[:-1], way[1:], t[:-1], t[1:])])
    return [torch.cat(values) for values in zip(*ends, strict=True)]
