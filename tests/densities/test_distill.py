"""Density distillation against teachers whose density is known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from cellflow.densities import DENSITIES, InvertibleModel, distill_density
from cellflow.training.trainer import Training

F64 = torch.float64
MEAN = torch.tensor([5.0, -2.0], dtype=F64)
ROOT = torch.tensor([[3.0, 0.0], [-1.0, 0.5]], dtype=F64)


@dataclass(frozen=True)
class Normal:
    """A normal law, and if it is bent, one whose second coordinate follows the first's square."""

    bend: float = 0.0
    differentiable: bool = True
    dim: int = 2

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        x = z @ ROOT.T + MEAN
        return torch.stack([x[:, 0], x[:, 1] + self.bend * (x[:, 0] - 5) ** 2], 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.stack([x[:, 0], x[:, 1] - self.bend * (x[:, 0] - 5) ** 2], 1)
        return torch.linalg.solve(ROOT, (x - MEAN).T).T

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        z = self.encode(x if self.differentiable else x.detach())
        return -z.square().sum(1) / 2 - torch.log(2 * torch.pi * torch.linalg.det(ROOT))

    def sample(self, n: int, *, generator: int = 0) -> torch.Tensor:
        rng = torch.Generator().manual_seed(generator)
        return self.decode(torch.randn(n, 2, generator=rng, dtype=F64))


@pytest.mark.parametrize("bend", [0.0, 0.05])
def test_student_recovers_its_teacher(bend: float) -> None:
    """Normal laws, straight and bent, in units of their own, by an inverse autoregressive flow."""
    teacher = Normal(bend)
    assert isinstance(teacher, InvertibleModel)
    state = torch.get_rng_state()
    training = Training(learning_rate=5e-3, ema=0.99)
    small = DENSITIES["iaf"](2, width=24, training=training)
    student = distill_density(teacher, student=small, steps=400)
    assert torch.equal(torch.get_rng_state(), state)
    x, drawn = teacher.sample(4000, generator=1), student.sample(4000, generator=2)
    gap = student.log_prob(drawn) - teacher.log_prob(drawn)
    assert -0.02 < float(gap.mean()) < 0.05  # KL(student || teacher), of drawn cells
    assert abs(student.history.train_loss[-1]) < 0.05
    gap = teacher.log_prob(x) - student.log_prob(x)
    assert abs(float(gap.median())) < 0.1
    # Four standard errors of the moments of 4,000 cells, and the student's own error.
    assert_close(drawn.mean(0), x.mean(0), atol=0.3, rtol=0)
    assert_close(torch.cov(drawn.T), torch.cov(x.T), atol=1.5, rtol=0.15)


def test_a_seed_decides_the_student() -> None:
    a, b, c = (distill_density(Normal(), steps=3, generator=seed) for seed in (0, 0, 1))
    x = Normal().sample(5)
    assert torch.equal(a.log_prob(x), b.log_prob(x))
    assert not torch.equal(a.log_prob(x), c.log_prob(x))


def test_teachers_without_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="`teacher`: got a `log_prob` without gradients"):
        distill_density(Normal(differentiable=False), steps=3)
