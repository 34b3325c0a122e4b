"""Parts of one's own: networks, optimisers, schedules, callbacks, and going on from a fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from anndata import AnnData
from torch import nn

import cellflow as cf
from cellflow import OTCFM, SF2M, UOTCFM
from cellflow.methods import Shooting
from cellflow.networks import MLP, MLPConfig, Units
from cellflow.timecourse import TimeCourse
from cellflow.training import Checkpointing, Training

XS = [50 + 9 * torch.randn(40, 2, generator=torch.Generator().manual_seed(k)) for k in range(3)]
COURSE = TimeCourse.from_arrays([x + 4 * k for k, x in enumerate(XS)], [0, 2, 3])
AT = XS[0]


class Own(nn.Module):
    """A network of the user's own, which knows nothing of ours."""

    def __init__(self, dim: int = 2, out: int = 2, drop: float = 0.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim + 1, 16), nn.Linear(16, out)
        self.drop = nn.Dropout(drop)

    def forward(self, t, x):
        h = self.last(self.drop(torch.tanh(self.first(torch.cat([x, t[:, None]], 1)))))
        return h if h.shape[1] > 1 else h[:, 0]


def make(units: Units, answer: str) -> nn.Module:
    return Own(len(units.centre), 1 if answer == "growth" else len(units.centre))


def answers(fit) -> list[torch.Tensor]:
    parts = [name for name in ("velocity", "score", "growth") if name in fit.networks]
    return [getattr(fit, name)(0.7, AT) for name in parts]


# --- networks of one's own -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "net"),
    [(OTCFM, make), (OTCFM, Own(drop=0.2)), (SF2M, make), (UOTCFM, make), (Shooting, Own())],
    ids=["factory", "module", "score", "growth", "shooting"],
)
def test_a_network_of_ones_own_is_fitted_saved_and_loaded(method, net, tmp_path) -> None:
    """It answers alike before and after, and the module that was given stays as it was."""
    before = [p.clone() for p in net.parameters()] if isinstance(net, nn.Module) else []
    fit = method(net=net).fit(COURSE, steps=30, progress=False)
    folder = fit.save(tmp_path / "fit")
    loaded = cf.load(folder, net=net)
    for got, want in zip(answers(loaded), answers(fit), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert all(map(torch.equal, before, net.parameters() if before else []))
    assert torch.isfinite(fit.simulate(AT, [0, 3]).x).all()
    with pytest.raises(ValueError, match=r"`net`: got none, expected the fit's own network"):
        cf.load(folder)


def test_a_network_of_ones_own_learns() -> None:
    """Cells that all move by 4 an interval: the speed is known, in any unit of the data."""
    xs = [AT + 4 * k for k in range(3)]
    course = TimeCourse.from_arrays(xs, [0, 2, 4])
    method = OTCFM(net=make, training=Training(learning_rate=1e-2, ema=0.9, validation=0.0))
    fit = method.fit(course, steps=400, progress=False)
    speed = fit.velocity(1.0, AT + 2).mean(0)
    torch.testing.assert_close(speed, torch.full((2,), 2.0), rtol=0.1, atol=0.0)


def test_factories_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two, other = (
        OTCFM(net=make).fit(COURSE, steps=2, generator=g, progress=False).velocity(0.5, AT)
        for g in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("method", "net", "said"),
    [
        (OTCFM, "mlp", "`net`: got 'mlp', expected MLPConfig"),
        (OTCFM, lambda units, answer: 3, "`net`: got a function that returns int"),
        (OTCFM, Own(2, 3), r"`net`: got shape \(.*, 3\) for the velocity"),
        (SF2M, Own(), "`net`: got one module for velocity and score"),
    ],
    ids=["text", "no module", "shape", "one for two"],
)
def test_networks_that_are_none(method, net, said) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        method(net=net).fit(COURSE, steps=2, progress=False)


def test_frozen_parameters_stay(tmp_path) -> None:
    net = Own()
    net.first.requires_grad_(False)
    fit = OTCFM(net=net).fit(COURSE, steps=20, progress=False)
    trained = fit.networks["velocity"].module
    assert torch.equal(trained.first.weight, net.first.weight)
    assert not torch.equal(trained.last.weight, net.last.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_public_network_takes_cells_of_either_type(dtype) -> None:
    """Made by hand, its centre is in float64; the answer is that of a converted copy."""
    net = MLP(Units((50.0, 50.0), 9.0)).to(dtype)
    net.centre = net.centre.double()
    x = AT.to(dtype)
    want = MLP(Units((50.0, 50.0), 9.0)).to(x)(torch.tensor(0.5), x)
    torch.testing.assert_close(net(torch.tensor(0.5), x), want)


# --- networks that draw by themselves ---------------------------------------------------------
DROPPING = Own(drop=0.5)


def dropping(checkpoint=None, stop: int = 0) -> torch.Tensor:
    """Weights after 40 steps of a network that drops half of its units."""

    def told(report) -> None:
        if report.step == stop:
            raise ZeroDivisionError

    how = Checkpointing(checkpoint, every=10)
    method = OTCFM(net=DROPPING)
    fit = method.fit(COURSE, steps=40, progress=False, on_step=told, checkpointing=how)
    return torch.cat([p.detach().flatten() for p in fit.networks.parameters()])


@pytest.mark.parametrize("method", [OTCFM, Shooting])
def test_dropout_leaves_the_global_generator_alone_and_follows_the_seed(method) -> None:
    def fitted(seed: int) -> torch.Tensor:
        on = method(net=DROPPING)
        return on.fit(COURSE, steps=5, generator=seed, progress=False).velocity(1, AT)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = fitted(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(fitted(0), one)
    assert not torch.equal(fitted(1), one)


def test_each_step_drops_other_units_and_a_resumed_fit_the_same(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError):
        dropping(tmp_path / "file", stop=25)
    whole = dropping()
    assert torch.equal(dropping(tmp_path / "file"), whole)

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.drawn = nn.Linear(2, 2), []

        def forward(self, t, x):
            self.drawn.append(float(torch.rand(())) if self.training else -1.0)
            return self.last(x)

    fit = OTCFM(net=Seen(), training=Training(check_every=5)).fit(COURSE, steps=10, progress=False)
    drawn = fit.networks["velocity"].module.drawn
    assert drawn[5] == drawn[11] == -1  # as for answers where it is validated
    assert len({*drawn}) == 10 + 1


def test_a_fit_that_goes_on_drops_units_again() -> None:
    first = OTCFM(net=DROPPING).fit(COURSE, steps=5, progress=False)
    fit = OTCFM(net=first.networks).fit(COURSE, steps=3, progress=False)
    drop = first.networks["velocity"].module.drop
    assert not drop.training  # answers drop nothing
    drop.p = 0.0
    other = OTCFM(net=first.networks).fit(COURSE, steps=3, progress=False)
    assert not torch.equal(fit.velocity(1, AT), other.velocity(1, AT))


# --- optimiser, schedule, callbacks ----------------------------------------------------------
def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-5)


def fitted(training: Training, steps: int = 60, **more) -> torch.Tensor:
    return OTCFM(training=training).fit(COURSE, steps=steps, progress=False, **more).velocity(1, AT)


def test_an_optimizer_of_ones_own_that_is_ours_gives_the_same_fit() -> None:
    torch.testing.assert_close(fitted(Training(optimizer=adam)), fitted(Training()))


def test_a_schedule_of_ones_own_that_is_ours_gives_the_same_fit() -> None:
    own = fitted(Training(schedule=lambda done: 1 - done))
    assert torch.equal(own, fitted(Training(schedule="linear")))
    assert not torch.equal(own, fitted(Training()))


def test_an_optimizer_of_ones_own_resumes_to_the_bit(tmp_path) -> None:
    """Interrupted after 25 of 60 steps, by the callback."""
    training, file = Training(optimizer=adam), tmp_path / "checkpoint"

    def stop(report) -> None:
        if report.step == 25:
            raise ZeroDivisionError

    how = Checkpointing(file, every=20)
    with pytest.raises(ZeroDivisionError):
        fitted(training, checkpointing=how, on_step=stop)
    assert torch.equal(fitted(training, checkpointing=how), fitted(training))


@pytest.mark.parametrize("optimizer", [lambda p: None, lambda p: torch.zeros(1)])
def test_optimizers_that_are_none(optimizer) -> None:
    with pytest.raises(TypeError, match="`optimizer`: got a function that returns"):
        fitted(Training(optimizer=optimizer))


@pytest.mark.parametrize("make_method", [OTCFM, Shooting])
def test_callbacks_know_what_a_logger_needs(make_method) -> None:
    """Losses of the steps have the mean that the history has; callbacks change nothing."""
    seen = []
    method = make_method(training=Training(check_every=5, validation=0.0))
    fit = method.fit(COURSE, steps=20, progress=False, on_step=seen.append)
    assert [r.step for r in seen] == list(range(1, 21))
    checked = [r for r in seen if r.validation_loss is not None]
    assert [r.step for r in checked] == fit.history.step == [5, 10, 15, 20]
    assert [r.learning_rate for r in checked] == fit.history.learning_rate
    assert [r.validation_loss for r in checked] == fit.history.validation_loss
    means = [sum(r.loss for r in seen[k : k + 5]) / 5 for k in range(0, 20, 5)]
    assert means == pytest.approx(fit.history.train_loss, rel=1e-4)
    plain = method.fit(COURSE, steps=20, progress=False)
    assert torch.equal(plain.velocity(1, AT), fit.velocity(1, AT))


def test_callbacks_of_the_door_and_of_members() -> None:
    """Each member says who it is; members, fitted here, are those of processes."""
    adata = AnnData(obs={"day": [0] * 40 + [2] * 40}, obsm={"X_pca": torch.cat(XS[:2]).numpy()})
    how = {"time_key": "day", "method": "otcfm", "steps": 3, "progress": False}
    seen: list = []
    one = cf.tl.fit(adata, on_step=seen.append, **how)
    assert [(r.member, r.step) for r in seen] == [(None, k) for k in (1, 2, 3)]
    assert torch.equal(one.velocity(1, AT), cf.tl.fit(adata, **how).velocity(1, AT))
    told: list = []
    both = cf.tl.fit(adata, members=2, workers=2, on_step=told.append, **how)
    assert [(r.member, r.step) for r in told] == [(m, k) for m in (0, 1) for k in (1, 2, 3)]
    for got, want in zip(both.members, cf.tl.fit(adata, members=2, **how).members, strict=True):
        assert torch.equal(got.velocity(1, AT), want.velocity(1, AT))


# --- going on from a fit ---------------------------------------------------------------------
@pytest.mark.parametrize("method", [OTCFM, SF2M, UOTCFM])
def test_a_fit_goes_on_from_another(method, tmp_path) -> None:
    """Steps of no length leave it where it was; and it is saved and loaded as any fit."""
    first = method().fit(COURSE, steps=40, progress=False)
    still = Training(learning_rate=1e-30, weight_decay=0.0)
    on = replace(first.method, net=first.networks, training=still)
    other = on.fit(COURSE, steps=3, progress=False, generator=5)
    for got, want in zip(answers(other), answers(first), strict=True):
        torch.testing.assert_close(got, want)
    loaded = cf.load(other.save(tmp_path / "fit"))
    assert loaded.method.net == MLPConfig() or loaded.method.net == first.method.net
    for got, want in zip(answers(loaded), answers(other), strict=True):
        assert torch.equal(got, want)


def test_longer_training_starts_where_the_shorter_one_ended() -> None:
    first = OTCFM().fit(COURSE, steps=200, progress=False)
    seen: list[float] = []
    replace(first.method, net=first.networks).fit(
        COURSE, steps=5, progress=False, on_step=lambda r: seen.append(r.loss)
    )
    fresh: list[float] = []
    first.method.fit(COURSE, steps=5, progress=False, on_step=lambda r: fresh.append(r.loss))
    assert sum(seen) < 0.8 * sum(fresh)
