"""Cells carried in one step or few: distilled flows and mean flows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from cellflow import _checks
from cellflow._random import stream_seed
from cellflow._typing import ArrayLike, Rng, Tensor
from cellflow.fits.fit import Fit
from cellflow.methods.flow_matching import FlowMatching
from cellflow.methods.shooting import Shots
from cellflow.networks import Network
from cellflow.paths import Pairs
from cellflow.training.loop import run
from cellflow.training.networks import assemble
from cellflow.training.options import FitOptions
from cellflow.training.train_on_pairs import threads_for
from cellflow.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class FewSteps:
    r"""A map that carries cells through a course in few steps.

    .. math:: x_{j+1} = x_j + (t_{j+1} - t_j)\, u(x_j, t_j, t_{j+1})

    The velocity network answers with the average velocities `u`
    (:meth:`cellflow.networks.Network.between`).

    Parameters
    ----------
    fit
        By :func:`MeanFlow`, for any number of steps, or the one that :func:`distill` returns; of
        others without a score the steps are Euler's.
    steps
        Their number from each snapshot to the next, of equal spans.
    """

    fit: Fit
    steps: int = 1

    def __post_init__(self) -> None:
        _checks.count(self.steps, "steps")
        if self.fit.dynamics.score is not None:
            got = f"one of {self.fit.method.name!r}, which has a score"
            raise ValueError(_checks.message("fit", got, "one without", "Distill it first."))

    def transport(self, x: ArrayLike) -> Tensor:
        """Carry cells `x` ``(n, d)``, in data coordinates, from the first snapshot to the last."""
        network, prep = cast(Network, self.fit.networks["velocity"]), self.fit.preprocessing
        _, z, _ = self.fit.encoded(self.fit.course.times[0], x)
        with torch.no_grad():
            for _, times in _grids(self.fit, self.steps):
                for t, until in pairwise(times):
                    z = z + (until - t).to(z) * network.between(t, until, z)
        return z if prep is None else prep.invert(z)


def distill(
    fit: Fit, *, steps: int = 1, budget: int = 2000, generator: Rng = 0, progress: bool = True
) -> FewSteps:
    """Teach a copy of the velocity network to carry cells in `steps` from snapshot to snapshot.

    The observed cells are carried along the mean flow of `fit`; the copy learns, by least squares,
    the average velocity of each on each step, from its place at the beginning (distillation of
    rectified flows: :cite:`liu2023`, section 3.3). The straighter the ways, the less there is to
    learn.

    Parameters
    ----------
    fit
        The teacher, which stays as it is.
    steps
        Steps of the map from each snapshot to the next.
    budget
        Training steps, with the settings and the batch size of the fit's method.
    generator, progress
        As in :class:`~cellflow.training.FitOptions`.

    Returns
    -------
    The map. Its `fit` can be saved; its velocity is that of the steps, at their beginnings, and of
    nothing else.
    """
    options = FitOptions(steps=budget, generator=generator, progress=progress)
    parts = fit.method.parts
    student = copy.deepcopy(cast(Network, fit.networks["velocity"])).requires_grad_(True)
    networks = nn.ModuleDict({"velocity": student})
    pool = _steps_of(fit, _checks.count(steps, "steps"))

    def draw(step: int) -> Shots:
        rng = torch.Generator().manual_seed(stream_seed(options.seed, step, 19))
        size = parts.batching.batch_size
        rows = torch.randint(len(pool.x0), (size,), generator=rng).to(pool.x0.device)
        values = (v[rows] for v in (pool.x0, pool.x1, pool.t0, pool.t1))
        return Shots(Pairs(*values), 1.0, step)

    def terms(batch: Shots) -> dict[str, Tensor]:
        p = batch.pairs
        found = student.between(p.t0[:, 0], p.t1[:, 0], p.x0)
        return {"velocity": nn.functional.mse_loss(found, (p.x1 - p.x0) / p.span)}

    trainer = Trainer(networks, terms, student.units.speed**2, parts.training, budget)
    with threads_for(parts.net, pool.x0.device):
        history = run(trainer, draw, None, fingerprint={}, options=options)
    if isinstance(parts, FlowMatching):
        name = f"{fit.method.name}_distilled"
        parts = replace(parts, name=name, score=False, growth=False)
    dynamics = assemble(parts, networks, student.units.knots)
    own = replace(fit, dynamics=dynamics, method=parts, networks=networks, history=history)
    return FewSteps(own, steps)


def _grids(fit: Fit, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give, of each interval, the times of the steps' ends: the user's, and the dynamics'."""
    device = next(fit.networks.parameters()).device
    for a, b in pairwise(fit.course.times):
        times = torch.linspace(a, b, steps + 1, dtype=torch.float64)
        own = times if fit.clock is None else fit.clock(times)
        yield times, own.to(device=device, dtype=_checks.time_dtype(device))


def _steps_of(fit: Fit, steps: int) -> Pairs:
    """Return both ends of every step of every observed cell, in model coordinates."""
    ends = []
    for (times, own), source in zip(_grids(fit, steps), fit.course.snapshots, strict=False):
        way = [fit.encoded(times[0], x)[1] for x in fit.simulate(source.x, times).x]
        for j, (x0, x1) in enumerate(pairwise(way)):
            t0, t1 = (own[k].expand(len(x0), 1) for k in (j, j + 1))
            ends.append((x0, x1, t0, t1))
    return Pairs(*(torch.cat(values) for values in zip(*ends, strict=True)))
