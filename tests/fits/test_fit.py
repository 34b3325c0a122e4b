"""What a fit keeps, what it pairs, and the cells it makes: each against a known answer."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import OTCFM, Snapshot, TimeCourse
from cellflow.batches import Batching, PairSampler
from cellflow.couplings import Given
from cellflow.methods import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight
from cellflow.preprocessing import fit_preprocessing
from cellflow.simulate import IntegrationError, Limits
from cellflow.training.cells import split
from cellflow.training.trainer import Training

F64 = torch.float64
SMALL = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}


def cloud(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def course(times=(0.0, 1.0, 3.0)) -> TimeCourse:
    return TimeCourse.from_arrays([cloud(60 + k, k) + k for k in range(3)], times)


def quick(c: TimeCourse, steps: int = 30, sigma: float = 0.1, **options):
    return OTCFM(sigma, **SMALL).fit(c, steps=steps, progress=False, **options)


def test_loaded_fit_has_the_cells_masses_labels_and_unit(tmp_path) -> None:
    snapshots = [
        Snapshot(
            cloud(9 + k, k) + k,
            time,
            torch.arange(1.0, 10.0 + k, dtype=F64),
            [f"type {(i + k) % 3}" for i in range(9 + k)],
        )
        for k, time in enumerate((0.0, 12.0, 48.0))
    ]
    fit = quick(TimeCourse(tuple(snapshots), "hour"), steps=3)
    loaded = cf.load(fit.save(tmp_path / "fit")).course
    assert loaded.unit == "hour"
    for kept, was in zip(loaded.snapshots, snapshots, strict=True):
        assert torch.equal(kept.x, was.x)
        assert torch.equal(kept.mass, was.mass)
        assert list(kept.labels) == list(was.labels)
        assert kept.time == was.time


def test_flow_follows_the_mass_of_cells() -> None:
    """One cluster between two: a millionth of the mass on one of them leaves all to the other."""
    middle, away = cloud(60, 0), torch.tensor([6.0, 0.0], dtype=F64)
    sides = torch.cat([cloud(30, 1) + away, cloud(30, 2) - away])
    for light in (slice(0, 30), slice(30, 60)):
        mass = torch.ones(60, dtype=F64)
        mass[light] = 1e-6
        c = TimeCourse.from_arrays([middle, sides], masses=[torch.ones(60, dtype=F64), mass])
        method = OTCFM(0.0, **SMALL, training=Training(learning_rate=1e-2))
        end = method.fit(c, steps=200, progress=False).simulate(middle, [0.0, 1.0]).final
        # The mean of the heavy cluster's 30 cells is off by .2, the network by as much.
        heavy = 6.0 if light.start else -6.0
        assert float(end[:, 0].mean()) == pytest.approx(heavy, abs=1.0)


def cycle(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unsorted cells x, their plan i -> i + 1, and cells y such that x[i] is sent to -2 x[i]."""
    x = torch.linspace(-1, 1, n, dtype=F64)[:, None]
    x = x[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    return x, torch.eye(n).roll(1, 1), (-2 * x).roll(1, 0)


def test_given_plan_reads_rows_as_source_cells() -> None:
    """A cycle is no symmetric plan, so that its transpose pairs other cells."""
    x, plan, y = cycle(12)
    batch = PairSampler(TimeCourse.from_arrays([x, y]), Given(plan), Batching(12)).batch(0)
    assert_close(batch.x1, -2 * batch.x0, rtol=0, atol=0)


def test_given_plan_keeps_the_order_of_cells() -> None:
    """Cells go from x to -2x: where x has come to (1 - 3s) x at s, its velocity is -3x."""
    x, plan, y = cycle(40)
    method = FlowMatching(
        Given(plan), Straight(0.0), training=Training(learning_rate=5e-3), net=MLPConfig(32, 2)
    )
    fit = method.fit(TimeCourse.from_arrays([x, y]), steps=800, progress=False)
    v = fit.velocity(0.1, 0.7 * x)
    slope = float((v * x).sum() / (x * x).sum())
    # The network's own error is up to 7 %; cells paired in another order give -.1 or more.
    assert slope == pytest.approx(-3.0, rel=0.3)


def test_cells_held_back_are_drawn_by_the_seed() -> None:
    c = course()
    (a, held), (b, other), (again, _) = (split(c, 0.2, seed) for seed in (0, 1, 0))
    for k, s in enumerate(c.snapshots):
        assert not torch.equal(held.snapshots[k].x, other.snapshots[k].x)
        assert torch.equal(a.snapshots[k].x, again.snapshots[k].x)
        for part, rest in ((a, held), (b, other)):  # every cell is on one side
            both = torch.cat([part.snapshots[k].x, rest.snapshots[k].x])
            assert_close(both.sort(0).values, s.x.sort(0).values, rtol=0, atol=0)


def test_validation_is_on_other_cells_than_training() -> None:
    c = course()
    ours = OTCFM(**SMALL, training=Training(check_every=10))
    none = OTCFM(**SMALL, training=Training(check_every=10, validation=0.0))
    held, all_cells = (m.fit(c, steps=20, progress=False).history for m in (ours, none))
    assert held.validation_loss[0] != held.train_loss[0]
    assert all_cells.validation_loss == all_cells.train_loss


def test_interpolate_scatters_repeated_cells_by_the_noise_of_the_path() -> None:
    """Whitened, the noise is a share of each dimension's own deviation."""
    same = torch.tensor([[1.0, 2.0]], dtype=F64).expand(6, 2)
    other = cloud(60, 1) * torch.tensor([10.0, 0.1], dtype=F64)
    c = TimeCourse.from_arrays([same, other])
    prep = fit_preprocessing(c.x, whiten=True)
    fit = quick(c, steps=1, sigma=0.3, preprocessing=prep)
    x = fit.interpolate(0.0, n_cells=5000, generator=1).x - same[0]
    assert bool((x[:6] == 0).all())  # the observed cells come first, as they are
    # Four standard errors of a deviation from 4,994 cells are 4 %.
    assert_close(x[6:].std(0), 0.3 * prep.scale, rtol=0.04, atol=0)
    assert_close(x[6:].mean(0) / prep.scale, torch.zeros(2, dtype=F64), rtol=0, atol=0.3 * 0.06)


def test_interpolate_chooses_cells_by_the_generator() -> None:
    fit = quick(course(), steps=1)
    first, second, again = (fit.interpolate(1.0, n_cells=20, generator=k).x for k in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert len(torch.unique(first, dim=0)) == 20
    known = fit.course.snapshots[1].x
    assert bool((first[:, None] == known).all(-1).any(1).all())


def test_simulate_takes_as_many_steps_in_a_short_interval_as_in_a_long_one() -> None:
    fit = quick(course((0.0, 0.25, 3.0)))
    x = cloud(9, 9)
    path = fit.simulate(x, [0.0, 3.0])
    assert path.n_evaluations == 2 * 4 * 6
    assert fit.simulate(x, [0.125, 3.0]).n_evaluations == 4 * (3 + 6)
    with pytest.warns(UserWarning, match="an extrapolation"):
        assert fit.simulate(x, [3.0, 3.0 + 2.75 / 6]).n_evaluations == 4
    # The adaptive solver's tolerances are 1e-5 or finer.
    assert_close(path.final, fit.simulate(x, [0.0, 3.0], solver="dopri5").final, atol=1e-4, rtol=0)


def test_simulate_passes_tolerances_to_an_adaptive_solver() -> None:
    fit, x = quick(course((0.0, 0.25, 3.0))), cloud(9, 9)
    exact = fit.simulate(x, [0.0, 3.0], solver="dopri5", limits=Limits(rtol=1e-11, atol=1e-11))
    loose = fit.simulate(x, [0.0, 3.0], solver="dopri5", limits=Limits(rtol=1e-2, atol=1e-2))
    tight = fit.simulate(x, [0.0, 3.0], solver="dopri5", limits=Limits(rtol=1e-7, atol=1e-7))
    assert loose.n_evaluations < tight.n_evaluations < exact.n_evaluations
    errors = [float((path.final - exact.final).abs().max()) for path in (tight, loose)]
    assert errors[0] < errors[1] < 1e-2
    with pytest.raises(IntegrationError, match="5 evaluations of the field were not enough"):
        fit.simulate(x, [0.0, 3.0], solver="dopri5", limits=Limits(max_evaluations=5))
