"""Density distillation: a density into a flow that samples in one pass."""

from __future__ import annotations

from typing import Any

import torch

from cellflow import _checks
from cellflow._random import seeded_draws, stream_rng, stream_seed
from cellflow._typing import Rng, Tensor
from cellflow.densities.density import Density, FittedDensity, InvertibleModel, _Cells
from cellflow.densities.flows import IAF
from cellflow.preprocessing import fit_preprocessing
from cellflow.training.loop import run
from cellflow.training.options import FitOptions
from cellflow.training.trainer import Trainer


def distill_density(
    teacher: InvertibleModel,
    *,
    student: Density | None = None,
    steps: int | None = None,
    generator: Rng = 0,
    progress: bool = False,
) -> FittedDensity:
    r"""Teach a flow that samples in one pass what a slower one knows (density distillation).

    The student `q` lowers :math:`KL(q \,\|\, p) = E_z[\log q(x) - \log p(x)],\ x = g(z)`, which its
    history has in nats, by its own samples and the gradients of the teacher's density (Parallel
    WaveNet, :cite:`oord2018`, section 4, without its losses of audio). It needs no cells. The
    divergence forgives modes that are left out, not samples where the teacher has no density.

    The `teacher` has `sample`, and a `log_prob` that is differentiable in the cells. The `student`
    has the shape and training, by default those of ``IAF()``, whose samples are fast; `steps`,
    `generator` and `progress` are those of :meth:`Density.fit`.
    """
    if not isinstance(teacher, InvertibleModel):
        expected = "a fitted density, such as NSF().fit(x)"
        raise TypeError(_checks.message("teacher", type(teacher).__name__, expected))
    student = IAF() if student is None else student
    number = student.default_steps if steps is None else steps
    options = FitOptions(steps=number, generator=generator, progress=progress)
    draws = teacher.sample(2000, generator=stream_seed(options.seed, 0, 20))
    scaling = fit_preprocessing(draws.detach(), whiten=True)
    offset = scaling.scale.log().sum()
    with seeded_draws(options.seed):
        flow: Any = student.build(teacher.dim).to(scaling.mean)

    def draw(step: int) -> _Cells:
        rng = stream_rng(options.seed, step, 20)
        return _Cells(torch.randn(student.batch_size, teacher.dim, generator=rng).to(offset))

    def loss(noise: _Cells) -> dict[str, Tensor]:
        y, log_slope = flow().transform.inv.call_and_ladj(noise.z)
        known = teacher.log_prob(scaling.invert(y))
        if y.requires_grad and not known.requires_grad:
            got, expected = "a `log_prob` without gradients", "a differentiable one"
            raise ValueError(_checks.message("teacher", got, expected))
        return {"divergence": (flow().base.log_prob(noise.z) - log_slope - offset - known).mean()}

    trainer = Trainer(flow, loss, 1.0, student.training, options.steps)
    history = run(trainer, draw, None, fingerprint={}, options=options)
    return FittedDensity(student, flow.requires_grad_(False), scaling, history)
