"""What happens between the rounds of an iterated fit: budgets, interruptions, files, refusals."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
import torch

import cellflow as cf
from cellflow import SF2M, TimeCourse
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.methods import DSBM, FlowMatching, Iterated, Method, Shooting
from cellflow.networks import MLPConfig
from cellflow.paths import Spline
from cellflow.training import Checkpointing
from cellflow.training.trainer import Trainer, Training

F64 = torch.float64


def uneven() -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [10.0 * k + torch.randn(20 + 9 * k, 2, generator=g, dtype=F64) for k in range(3)]
    return TimeCourse.from_arrays(xs, [0.0, 1.0, 3.0])


def small(rounds: int = 3, **options) -> Iterated:
    net, batching = MLPConfig(16, 2), Batching(32, 32, reuse=2)
    base = SF2M(1.0, coupling="exact", net=net, batching=batching, training=Training(check_every=5))
    return Iterated(base, rounds, **options)


def test_budgets_sum_to_the_steps() -> None:
    assert small(4).budgets(3000) == [1500, 375, 375, 375, 375]
    assert small(3, first_share=0.3).budgets(10) == [3, 2, 2, 3]
    assert small(4).budgets(1) == [1, 0, 0, 0, 0]
    assert len(small(4).fit(uneven(), steps=1, progress=False).history.step) == 1


def test_first_round_is_the_fit_of_the_base() -> None:
    method = small(2)
    whole = method.fit(uneven(), steps=80, progress=False)
    assert whole.history.rounds == [0] * 8 + [1] * 4 + [2] * 4
    assert whole.history.step == list(range(5, 81, 5))
    assert whole.history.learning_rate[8] > whole.history.learning_rate[7]  # each its schedule
    assert whole.history.coupling["plans"] > 0
    x = torch.zeros(1, 2, dtype=F64)
    seen = {tuple(whole.velocity(0.5, x)[0].tolist())}
    for rounds in (1, 2):
        part = replace(method, rounds=rounds).fit(uneven(), steps=60, progress=False)
        seen.add(tuple(part.velocity(0.5, x)[0].tolist()))
    assert len(seen) == 3


def interrupt_at(monkeypatch, count: int) -> list[int]:
    """Press Ctrl-C in the training step of this number; return the list that counts them."""
    advance, seen = Trainer.advance, []

    def interrupting(self, batch) -> None:
        advance(self, batch)
        seen.append(self.step)
        if len(seen) == count:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "advance", interrupting)
    return seen


@pytest.mark.parametrize("stop", [25, 40, 58, 73])
def test_iterated_resumed_in_any_round_equals_an_uninterrupted_fit(
    stop, tmp_path, monkeypatch
) -> None:
    path, x = tmp_path / "run.safetensors", uneven().x
    whole = small(2).fit(uneven(), steps=80, progress=False)
    seen = interrupt_at(monkeypatch, stop)

    def fit() -> cf.Fit:
        asked = Checkpointing(path, every=10)
        return small(2).fit(uneven(), steps=80, progress=False, checkpointing=asked)

    handler = signal.getsignal(signal.SIGINT)
    first = fit()
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.history.stopped == "interrupted"
    assert len(seen) == stop  # no further round was begun
    second = fit()
    assert len(seen) == 80
    assert torch.equal(second.velocity(0.5, x), whole.velocity(0.5, x))
    assert torch.equal(second.score(0.5, x), whole.score(0.5, x))
    for name in ("step", "train_loss", "validation_loss", "rounds", "stopped", "best_step"):
        assert getattr(second.history, name) == getattr(whole.history, name)
    names = {"run.safetensors", "run.round1.safetensors", "run.round2.safetensors"}
    assert {f.name for f in tmp_path.iterdir()} == names


def test_iterated_drops_a_round_interrupted_before_its_first_check(monkeypatch) -> None:
    base = small(2).base.fit(uneven(), steps=40, progress=False)
    seed = small(2).fit(uneven(), steps=80, progress=False)  # the uninterrupted one differs
    interrupt_at(monkeypatch, 42)
    stopped = small(2).fit(uneven(), steps=80, progress=False)
    assert stopped.history.stopped == "interrupted"
    assert stopped.history.rounds == [0] * 8
    monkeypatch.undo()
    interrupt_at(monkeypatch, 40)
    first = small(2).fit(uneven(), steps=80, progress=False)
    x = uneven().x
    assert torch.equal(stopped.velocity(0.5, x), first.velocity(0.5, x))
    assert not torch.equal(stopped.velocity(0.5, x), seed.velocity(0.5, x))
    assert base.history.step == first.history.step


def test_checkpoint_of_another_round_is_refused(tmp_path) -> None:
    asked = Checkpointing(tmp_path / "run")
    small(2).fit(uneven(), steps=40, progress=False, checkpointing=asked)
    with pytest.raises(ValueError, match="`checkpoint`: got .*run.round1.* differs in method"):
        small(4).fit(uneven(), steps=40, progress=False, checkpointing=asked)


def test_iterated_fit_of_a_relative_sigma_is_saved_whole(tmp_path) -> None:
    parts = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}
    fit = DSBM(rounds=2, **parts).fit(uneven(), steps=20, progress=False)
    loaded = cf.load(fit.save(tmp_path / "fit"))
    assert loaded.method == fit.method
    assert isinstance(loaded.method, Iterated)
    assert not loaded.method.base.relative_sigma
    assert loaded.method.parts.path.diffusion == loaded.dynamics.sigma > 0
    assert loaded.history.rounds == [0, 1, 2]
    assert len(loaded.interpolate(0.5, n_cells=50).x) == 50


def test_dsbm_is_named_after_its_coupling() -> None:
    assert [DSBM().name, DSBM(coupling="exact").name] == ["dsbm", "dsbm_exact"]
    assert isinstance(DSBM(), Method)
    assert isinstance(SF2M(), Method)
    assert not isinstance("dsbm", Method)


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        (cf.UBSB(), ValueError, "`base`: got 'ubsb', which learns growth, expected a method with"),
        (cf.SBCFM(), ValueError, "'sbcfm', which has diffusion but no score, expected one that"),
        (
            FlowMatching(Exact(), Spline(0.0)),
            ValueError,
            "`base`: got 'flow_matching', whose paths bend or start from noise, expected one of",
        ),
        (Shooting(), TypeError, "`base`: got Shooting, expected a FlowMatching"),
    ],
)
def test_iterated_refuses_methods_that_cannot_be_iterated(base, error, message) -> None:
    with pytest.raises(error, match=message):
        Iterated(base)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rounds": 0}, "`rounds`: got 0"), ({"first_share": 0.0}, "`first_share`: got 0")],
)
def test_bad_settings_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Iterated(SF2M(), **options)
