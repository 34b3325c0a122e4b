"""What a check measures, and what a checkpoint carries over or refuses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cellflow import OTCFM, TimeCourse
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.training import Checkpointing
from cellflow.training.trainer import Trainer, Training

F64 = torch.float64


@dataclass(frozen=True)
class Target:
    """A batch: one target for all rows."""

    value: float
    share: float = 1.0


def network() -> nn.Module:
    net = nn.utils.skip_init(nn.Linear, 2, 1).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0]]))
        net.bias.fill_(0.5)
    return net


def trainer(**training) -> Trainer:
    """A trainer whose batches are the targets of one linear layer, in units of 4."""
    net, x = network(), torch.linspace(-1, 1, 20, dtype=F64).view(10, 2)
    settings = Training(learning_rate=0.1, **training)
    return Trainer(net, lambda b: {"fit": (net(x) - b.value).square().mean()}, 4.0, settings, 100)


@torch.no_grad()
def loss_at(weights: torch.Tensor, batch: Target) -> float:
    """Loss of a network of its own at the given weights."""
    net, x = network(), torch.linspace(-1, 1, 20, dtype=F64).view(10, 2)
    nn.utils.vector_to_parameters(weights, net.parameters())
    return float((net(x) - batch.value).square().mean())


def test_a_check_measures_the_average_and_leaves_the_weights_alone() -> None:
    run, batch = trainer(ema=0.9), Target(3.0)
    for _ in range(5):
        run.advance(Target(2.0))
    live, average = run.flat.value.detach().clone(), run.average.clone()
    assert not torch.equal(live, average)
    run.check(batch)
    assert torch.equal(run.flat.value.detach(), live)
    assert torch.equal(run.average, average)
    assert run.history.validation_loss == [pytest.approx(loss_at(average, batch))]
    assert run.history.validation_loss != [pytest.approx(loss_at(live, batch))]


def test_training_losses_are_means_since_the_last_check() -> None:
    run, batch = trainer(), Target(2.0)
    means = []
    for steps in (3, 2):
        losses = []
        for _ in range(steps):
            losses.append(loss_at(run.flat.value.detach().clone(), batch))
            run.advance(batch)
        run.check(None)
        means.append(pytest.approx(sum(losses) / steps))
    assert run.history.train_loss == run.history.validation_loss == means


def test_patience_is_not_renewed_by_resuming(tmp_path) -> None:
    """One bad check before the interruption and one after it are two."""
    path, target = tmp_path / "run.safetensors", Target(0.0)

    def check(run: Trainer, valid: float) -> bool:
        run.advance(target)
        run._evaluate = lambda batch: valid
        return run.check(target)

    first = trainer(patience=2)
    assert [check(first, v) for v in (1.0, 2.0)] == [False, False]
    first.save(path, {})
    second = trainer(patience=2)
    second.restore(path, {})
    assert second.history == first.history
    assert check(second, 1.5)
    assert torch.equal(second.best, first.best)


def course(shift: float = 0.0, heavy: float = 1.0, unit: str = "day") -> TimeCourse:
    g = torch.Generator().manual_seed(1)
    xs = [k + torch.randn(40, 2, generator=g, dtype=F64) for k in range(3)]
    masses = [torch.ones(40, dtype=F64) for _ in xs]
    xs[1][7, 0] += shift
    masses[1][7] = heavy
    return TimeCourse.from_arrays(xs, masses=masses, unit=unit)


def fit(c: TimeCourse, path, **training):
    settings = Training(check_every=10, **training)
    method = OTCFM(net=MLPConfig(16, 2), batching=Batching(32, 32), training=settings)
    return method.fit(c, steps=20, progress=False, checkpointing=Checkpointing(path))


def test_a_checkpoint_of_other_cells_or_masses_is_refused(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    first = fit(course(), path)
    differs = "`checkpoint`: got .* differs in training cells, expected"
    for other in (course(shift=1e-3), course(heavy=2.0)):
        with pytest.raises(ValueError, match=differs):
            fit(other, path)
    again = fit(course(), path)  # the same cells go on, here from the end
    x = torch.zeros(1, 2, dtype=F64)
    assert torch.equal(again.velocity(0.5, x), first.velocity(0.5, x))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    fit(course(), path)
    with pytest.raises(ValueError, match="`checkpoint`: got .* differs in method, expected"):
        fit(course(), path, ema=0.5)
