"""Members trained as one are the fits that they would be alone, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow.batches import Batching
from cellflow.methods import METHODS
from cellflow.networks import MLPConfig
from cellflow.preprocessing import fit_preprocessing
from cellflow.several import fit_members, members
from cellflow.several.members import resampled
from cellflow.several.stacked import StackedTrainer, UnequalStepsError, fit_stacked
from cellflow.training import Checkpointing, FitOptions, Training

F64 = torch.float64
SMALL = {
    "net": MLPConfig(16, 2, skip=True),
    "batching": Batching(32, 32),
    "training": Training(check_every=10),
}
SEEDS = (1, 2, 3)


def course(dtype: torch.dtype = F64) -> cf.TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [torch.randn(60, 2, generator=g, dtype=F64).to(dtype) + k for k in range(3)]
    return cf.TimeCourse.from_arrays(xs, (0.0, 1.0, 3.0))


def stacked(method, courses=None, files=(None,) * 3, *, preprocessing=None, every=1000, steps=30):
    options = [
        FitOptions(
            steps=steps, generator=seed, checkpointing=Checkpointing(file, every), progress=False
        )
        for seed, file in zip(SEEDS, files, strict=True)
    ]
    return fit_stacked(method, courses or [course()] * 3, options, preprocessing=preprocessing)


def weights(fit) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in fit.networks.parameters()])


@pytest.mark.parametrize(
    "name", ["otcfm", "icfm", "mmfm", "mean_flow", "sbcfm", "sf2m", "uotcfm", "ubsb"]
)
def test_stacked_members_are_the_fits_of_their_seeds(name) -> None:
    """Each with other cells, so that units, sigmas and held-back cells differ as well."""
    method = METHODS[name](**SMALL)
    courses = [resampled(course(), seed) for seed in SEEDS]
    together = stacked(method, courses)
    for fit, c, seed in zip(together, courses, SEEDS, strict=True):
        alone = method.fit(c, steps=30, generator=seed, progress=False)
        assert_close(weights(fit), weights(alone), rtol=0, atol=1e-10)
        assert_close(fit.history.validation_loss, alone.history.validation_loss)
        assert_close(fit.history.train_loss, alone.history.train_loss, rtol=1e-5, atol=0)
        assert fit.history.best_step == alone.history.best_step
        assert fit.method == alone.method
        assert fit.history.coupling.keys() == alone.history.coupling.keys()
        x = c.snapshots[0].x
        assert_close(fit.velocity(0.5, x), alone.velocity(0.5, x), rtol=0, atol=1e-9)


def test_stacked_members_end_by_their_own_patience() -> None:
    """A member out of patience keeps the weights it would have, while others go on."""
    training = Training(learning_rate=0.1, schedule="constant", check_every=2, patience=2)
    method = cf.OTCFM(**(SMALL | {"training": training}))
    together = stacked(method, steps=200)
    steps = []
    for fit, seed in zip(together, SEEDS, strict=True):
        alone = method.fit(course(), steps=200, generator=seed, progress=False)
        steps.append(alone.history.step[-1])
        assert fit.history.step == alone.history.step
        assert fit.history.stopped == alone.history.stopped == "patience"
        assert_close(weights(fit), weights(alone), rtol=0, atol=1e-8)
    assert len(set(steps)) > 1


def test_stacked_members_in_single_precision_with_scaled_dimensions() -> None:
    c = course(torch.float32)
    prep = fit_preprocessing(c.x, whiten=True)
    method = cf.SF2M(**SMALL)
    for fit, seed in zip(stacked(method, [c] * 3, preprocessing=prep), SEEDS, strict=True):
        alone = method.fit(c, steps=30, generator=seed, preprocessing=prep, progress=False)
        assert weights(fit).dtype == torch.float32
        assert_close(weights(fit), weights(alone), rtol=0, atol=1e-5)


class StopError(Exception):
    pass


def stop_at(step: int, advance, trainer, batch) -> None:
    if trainer.step == step:
        raise StopError
    advance(trainer, batch)


def test_checkpoints_of_stacked_members_serve_both_ways_of_training(tmp_path, monkeypatch) -> None:
    """Stopped after 20 of 30 steps, each member goes on: as one, or alone."""
    method = cf.OTCFM(**SMALL)
    files = [tmp_path / f"{seed}.safetensors" for seed in SEEDS]
    with monkeypatch.context() as patch:
        advance = StackedTrainer.advance
        patch.setattr(
            StackedTrainer, "advance", lambda self, batch: stop_at(20, advance, self, batch)
        )
        with pytest.raises(StopError):
            stacked(method, files=files, every=10)
    texts = [file.read_bytes() for file in files]
    whole = stacked(method)
    again = stacked(method, files=files, every=10)
    for a, b in zip(again, whole, strict=True):
        assert_close(weights(a), weights(b), rtol=0, atol=1e-12)
        assert a.history.step == b.history.step
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text)
    alone = method.fit(
        course(), steps=30, generator=2, checkpointing=Checkpointing(files[1]), progress=False
    )
    assert_close(weights(alone), weights(whole[1]), rtol=0, atol=1e-10)
    with pytest.raises(UnequalStepsError, match=r"steps \[20, 30\]"):  # the second is at its end
        stacked(method, files=files, every=10)


def test_fit_members_stacks_on_its_devices(monkeypatch) -> None:
    monkeypatch.setattr(members, "STACKED", ("cpu",))
    options = FitOptions(steps=20, progress=False)
    method = cf.OTCFM(**SMALL)
    one = fit_members(method, course(), options, members=3)
    monkeypatch.undo()
    for a, b in zip(one, fit_members(method, course(), options, members=3, workers=1), strict=True):
        assert_close(weights(a), weights(b), rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
def test_fit_members_stacks_on_a_gpu() -> None:
    method = cf.OTCFM(**SMALL)
    options = FitOptions(steps=30, device="cuda", progress=False)
    some = fit_members(method, course(), options, members=3)
    for fit, seed in zip(some, some.seeds, strict=True):
        alone = method.fit(course(), steps=30, generator=seed, device="cuda", progress=False)
        assert weights(fit).device.type == "cuda"
        assert_close(weights(fit), weights(alone), rtol=0, atol=1e-9)
