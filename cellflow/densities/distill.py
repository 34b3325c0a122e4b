"""Density distillation: a density into a flow that samples in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cellflow import _checks
from cellflow._random import seeded_draws, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.densities.density import Density, FittedDensity, InvertibleModel
from cellflow.densities.flows import IAF
from cellflow.preprocessing import fit_preprocessing
from cellflow.training.loop import run
from cellflow.training.options import FitOptions
from cellflow.training.trainer import Trainer

#: Draws of the teacher by which the student is centred and scaled.
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class _Noise:
    """Points of the base ``(n, d)``."""

    z: Tensor
    share: float = 1.0


def distill_density(
    teacher: InvertibleModel,
    *,
    student: Density | None = None,
    steps: int | None = None,
    generator: Rng = 0,
    progress: bool = False,
) -> FittedDensity:
    r"""Teach a flow that samples in one pass what a slower one knows (density distillation).

    The student `q` descends :math:`KL(q \,\|\, p) = E_z[\log q(x) - \log p(x)],\ x = g(z)`, by
    its own samples and the gradients of the teacher's log-density (Parallel WaveNet,
    :cite:`oord2018`, section 4; without its losses of audio). No cells are needed. This divergence
    seeks modes: of a teacher with separate ones, the student may forget some.

    Parameters
    ----------
    teacher
        What has `sample`, and a `log_prob` that is differentiable in the cells.
    student
        Shape and training of the student; ``IAF()`` when omitted, whose samples are fast.
    steps, generator, progress
        As in :meth:`Density.fit`. The last average of the weights is kept.

    Returns
    -------
    The student; the losses of its history are the divergence, in nats.
    """
    student = IAF() if student is None else student
    number = student.default_steps if steps is None else steps
    options = FitOptions(steps=number, generator=generator, progress=progress)
    draws = teacher.sample(_DRAWS, generator=stream_seed(options.seed, 0, 20))
    scaling = fit_preprocessing(draws.detach(), whiten=True)
    with seeded_draws(options.seed):
        flow: Any = student.build(teacher.dim).to(scaling.mean)
    offset = scaling.scale.log().sum()

    def loss(batch: _Noise) -> dict[str, Tensor]:
        y, log_slope = flow().transform.inv.call_and_ladj(batch.z)
        known = teacher.log_prob(scaling.invert(y))
        if y.requires_grad and not known.requires_grad:
            got, expected = "a `log_prob` without gradients", "a differentiable one"
            raise ValueError(_checks.message("teacher", got, expected))
        found = flow().base.log_prob(batch.z) - log_slope - offset
        return {"divergence": (found - known.to(found)).mean()}

    def draw(step: int) -> _Noise:
        rng = torch.Generator().manual_seed(stream_seed(options.seed, step, 21))
        return _Noise(torch.randn(student.batch_size, teacher.dim, generator=rng).to(scaling.mean))

    trainer = Trainer(flow, loss, 1.0, student.training, options.steps)
    history = run(trainer, draw, None, fingerprint={}, options=options)
    return FittedDensity(student, flow.requires_grad_(False), scaling, history)
