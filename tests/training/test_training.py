"""The training loop against torch's own optimiser; resuming; interrupting; stopping."""

from __future__ import annotations

import copy
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cellflow import OTCFM, TimeCourse
from cellflow.batches import Batching
from cellflow.training import Checkpointing
from cellflow.training.optimizers import FlatParameters
from cellflow.training.trainer import SCHEDULES, Trainer, Training


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return net


def target(value: float) -> SimpleNamespace:
    """A batch: one target for all rows."""
    return SimpleNamespace(value=value, share=1.0)


def loss_of(net: nn.Module):
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(10, 2)
    return lambda batch: {"fit": (net(x) - batch.value).square().mean()}


def test_trainer_equals_torch_adamw_with_clipping_and_averaging() -> None:
    settings = Training(learning_rate=0.05, weight_decay=0.1, clip=0.5, ema=0.9)
    ours, theirs = network(), network()
    trainer = Trainer(ours, loss_of(ours), 1.0, settings, steps=30)
    peer = torch.optim.AdamW(theirs.parameters(), lr=0.05, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 30)
    average = [p.detach().clone() for p in theirs.parameters()]
    for k in range(30):
        trainer.advance(target(0.3))
        peer.zero_grad()
        loss_of(theirs)(target(0.3))["fit"].backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        peer.step()
        schedule.step()
        decay = min(0.9, (k + 1) / (k + 11))
        for a, p in zip(average, theirs.parameters(), strict=True):
            a.mul_(decay).add_(p.detach(), alpha=1 - decay)
    assert_close(
        trainer.flat.value.data, torch.cat([p.data.flatten() for p in theirs.parameters()])
    )
    assert_close(trainer.average, torch.cat([a.flatten() for a in average]))


def test_flat_parameters_hold_the_modules_gradients() -> None:
    net, peer = network(), network()
    flat = FlatParameters(net)
    loss_of(net)(target(1.0))["fit"].backward()
    loss_of(peer)(target(1.0))["fit"].backward()
    assert_close(flat.value.grad, torch.cat([p.grad.flatten() for p in peer.parameters()]))


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_decay_from_one_to_zero(name: str) -> None:
    rate = SCHEDULES[name]
    values = [rate(k / 10) for k in range(11)]
    assert values[0] == 1
    assert values[5] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values, reverse=True)


def trainer_of(**training) -> Trainer:
    """A trainer of its own network, in units of 4."""
    net = network()
    return Trainer(net, loss_of(net), 4.0, Training(learning_rate=0.1, **training), 100)


@torch.no_grad()
def loss_at(weights: torch.Tensor, value: float) -> float:
    """Loss of a network of its own at the given weights."""
    net = network()
    nn.utils.vector_to_parameters(weights, net.parameters())
    return float(loss_of(net)(target(value))["fit"])


def test_check_measures_the_average_and_leaves_the_weights() -> None:
    run = trainer_of(ema=0.9)
    for _ in range(5):
        run.advance(target(2.0))
    live, average = run.flat.value.detach().clone(), run.average.clone()
    assert not torch.equal(live, average)
    run.check(target(3.0))
    assert torch.equal(run.flat.value.detach(), live)
    assert torch.equal(run.average, average)
    assert run.history.validation_loss == [pytest.approx(loss_at(average, 3.0))]
    assert run.history.validation_loss != [pytest.approx(loss_at(live, 3.0))]


def test_training_loss_is_the_mean_since_the_last_check() -> None:
    run = trainer_of()
    means = []
    for steps in (3, 2):
        losses = []
        for _ in range(steps):
            losses.append(loss_at(run.flat.value.detach().clone(), 2.0))
            run.advance(target(2.0))
        run.check(None)
        means.append(pytest.approx(sum(losses) / steps))
    assert run.history.train_loss == run.history.validation_loss == means


def test_restore_does_not_renew_patience(tmp_path) -> None:
    """One bad check before the interruption and one after it are two."""
    path, zero = tmp_path / "run.safetensors", target(0.0)

    def check(run: Trainer, valid: float) -> bool:
        run.advance(zero)
        run._evaluate = lambda batch: valid
        return run.check(zero)

    first = trainer_of(patience=2)
    assert [check(first, v) for v in (1.0, 2.0)] == [False, False]
    first.save(path, {})
    second = trainer_of(patience=2)
    second.restore(path, {})
    assert second.history == first.history
    assert check(second, 1.5)
    assert torch.equal(second.best, first.best)


def course() -> TimeCourse:
    g = torch.Generator().manual_seed(1)
    return TimeCourse.from_arrays([k + torch.randn(150, 2, generator=g) for k in range(3)])


def method(**training):
    return OTCFM(batching=Batching(32, 32, reuse=2), training=Training(check_every=20, **training))


def weights(fit) -> torch.Tensor:
    return torch.cat([p.data.flatten() for p in fit.dynamics.velocity.parameters()])


def interrupt_at(monkeypatch, count: int) -> list[int]:
    """Press Ctrl-C in the training step of this number; return the list of steps taken."""
    advance, seen = Trainer.advance, []

    def interrupting(self, batch) -> None:
        advance(self, batch)
        seen.append(self.step)
        if len(seen) == count:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "advance", interrupting)
    return seen


def test_resumed_fit_equals_an_uninterrupted_one(tmp_path, monkeypatch) -> None:
    whole = method().fit(course(), steps=100, progress=False)
    saved = Checkpointing(tmp_path / "run.safetensors", every=30)
    seen = interrupt_at(monkeypatch, 47)
    handler = signal.getsignal(signal.SIGINT)
    first = method().fit(course(), steps=100, progress=False, checkpointing=saved)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.history.stopped == "interrupted"
    assert seen[-1] == 47
    second = method().fit(course(), steps=100, progress=False, checkpointing=saved)
    assert seen[47] == 48  # it went on where it was
    assert torch.equal(weights(second), weights(whole))
    assert second.history.validation_loss == whole.history.validation_loss
    assert second.history.train_loss == whole.history.train_loss
    assert second.history.stopped == "budget"


def test_interrupted_fit_keeps_its_best_weights(monkeypatch) -> None:
    interrupt_at(monkeypatch, 50)
    fit = method().fit(course(), steps=100, progress=False)
    assert fit.history.step == [20, 40]
    assert fit.history.best_step in (20, 40)
    assert torch.isfinite(fit.velocity(0.5, course().x)).all()


def test_checkpoint_of_another_fit_is_refused(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    method().fit(course(), steps=20, progress=False, checkpointing=Checkpointing(path))
    differs = "`checkpoint`: got .* differs in seed, training cells, expected"
    saved = Checkpointing(path)
    with pytest.raises(ValueError, match=differs):
        method().fit(course(), steps=20, generator=1, progress=False, checkpointing=saved)


def weighted_course(shift: float = 0.0, heavy: float = 1.0) -> TimeCourse:
    xs, mass = [s.x.clone() for s in course().snapshots], torch.ones(150)
    xs[1][7, 0] += shift
    mass[7] = heavy
    return TimeCourse.from_arrays(xs, masses=[mass.new_ones(150), mass, mass.new_ones(150)])


def fit_to(c: TimeCourse, path, **training):
    return method(**training).fit(c, steps=20, progress=False, checkpointing=Checkpointing(path))


def test_checkpoint_of_other_cells_or_masses_is_refused(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    first = fit_to(weighted_course(), path)
    differs = "`checkpoint`: got .* differs in training cells, expected"
    for other in (weighted_course(shift=1e-3), weighted_course(heavy=2.0)):
        with pytest.raises(ValueError, match=differs):
            fit_to(other, path)
    again = fit_to(weighted_course(), path)  # the same cells go on, here from the end
    x = torch.zeros(1, 2)
    assert torch.equal(again.velocity(0.5, x), first.velocity(0.5, x))


def test_checkpoint_of_other_settings_is_refused(tmp_path) -> None:
    path = tmp_path / "run.safetensors"
    fit_to(weighted_course(), path)
    with pytest.raises(ValueError, match="`checkpoint`: got .* differs in method, expected"):
        fit_to(weighted_course(), path, ema=0.5)


def test_checkpoint_that_is_another_file_is_refused_and_kept(tmp_path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ValueError, match="damaged or something else"):
        method().fit(course(), steps=20, progress=False, checkpointing=Checkpointing(path))
    assert path.read_text() == "mine"


def test_patience_stops_training_and_keeps_the_best_average() -> None:
    net = network()
    trainer = Trainer(net, loss_of(net), 1.0, Training(patience=2, ema=0.0), steps=100)
    zero = target(0.0)
    stopped = []
    for valid in (3.0, 1.0, 2.0, 1.5):
        trainer.advance(zero)
        trainer._evaluate = lambda batch, valid=valid: valid
        stopped.append(trainer.check(zero))
        if valid == 1.0:
            best = trainer.flat.value.detach().clone()
    assert stopped == [False, False, False, True]
    trainer.keep_best()
    assert torch.equal(torch.cat([p.data.flatten() for p in net.parameters()]), best)


def test_check_refuses_a_loss_that_is_not_finite() -> None:
    net = network()
    trainer = Trainer(
        net, lambda b: {"fit": net(torch.ones(1, 2).double()).sum() * b.value}, 1.0, Training(), 10
    )
    trainer.advance(target(float("nan")))
    with pytest.raises(FloatingPointError, match="training loss became nan at step 1. Lower"):
        trainer.check(None)


def test_fit_leaves_its_input_unchanged() -> None:
    c = course()
    before = copy.deepcopy([s.x for s in c.snapshots])
    method().fit(c, steps=5, progress=False)
    for a, s in zip(before, c.snapshots, strict=True):
        assert torch.equal(a, s.x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "`schedule`: got 'cosin'.* Did you mean 'cosine'"),
        ({"learning_rate": 0}, "`learning_rate`: got 0"),
        ({"learning_rate": "fast"}, "`learning_rate`: got 'fast'"),
        ({"validation": 0.9}, "`validation`: got 0.9"),
        ({"patience": 0}, "`patience`: got 0"),
        ({"ema": 1.0}, "`ema`: got 1.0"),
    ],
)
def test_bad_settings_are_named(settings, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Training(**settings)


def test_history_accounts_for_all_seconds() -> None:
    fit = method().fit(course(), steps=60, progress=False)
    timing = fit.history.timing
    assert set(timing) == {"coupling", "data", "network", "checks"}
    assert all(seconds >= 0 for seconds in timing.values())
    assert sum(timing.values()) == pytest.approx(fit.history.seconds, rel=0.05)
    assert "60 steps (budget)" in fit.summary and "network" in fit.summary
    assert fit.health in fit.summary
