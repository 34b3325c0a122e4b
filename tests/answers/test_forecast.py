"""Forecasts of courses cut short, where what comes is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anndata import AnnData

import cellflow as cf
from cellflow.batches import Batching
from cellflow.clock import Clock
from cellflow.networks import MLPConfig
from cellflow.timecourse import TimeCourse
from cellflow.training import Training

METHOD = cf.OTCFM(
    0.1,
    net=MLPConfig(16, 1),
    batching=Batching(64, 64, prefetch=False),
    training=Training(learning_rate=5e-3, validation=0.0),
)
#: Units a day that a normal cloud moves, after which its W1 distance from itself is just that.
STEP, N = np.array([3.0, -4.0]), 200


@pytest.fixture(scope="module")
def fit() -> cf.Fit:
    rng, day = np.random.default_rng(0), np.repeat([0, 1, 3, 4], N)
    x = rng.normal(size=(4 * N, 2)) + day[:, None] * STEP
    adata = AnnData(obsm={"X_pca": x.astype(np.float32)})
    adata.obs["day"] = day
    options = {"time_key": "day", "use_rep": "X_pca", "whiten": True}
    return cf.tl.fit(adata, method=METHOD, steps=150, progress=False, **options)


def test_errors_are_those_of_a_cloud_that_moves_evenly(fit):
    with pytest.warns(UserWarning, match="an extrapolation"):
        out = cf.tl.forecast(fit, time=5, cuts=2)
    table = out.uns["forecast"]
    assert table["time"].tolist() == [3, 4]
    assert table["ahead"].tolist() == [2, 1]
    noise = 4 * np.sqrt(2 * 2 / N)  # of the difference of two means
    np.testing.assert_allclose(table["last"], 5 * table["ahead"], atol=noise)
    # The mean is extrapolated by a slope from two means: from day 0 and 1 to 3, from 1 and 3 to 4.
    assert (table["mean"] < table["floor"] + 4 * np.sqrt(2 / N) * np.array([3.6, 2])).all()
    assert (table["model"] < table["last"]).all()
    assert table["model"].iloc[-1] < 0.5 * table["last"].iloc[-1]  # which has three days to learn
    assert np.linalg.norm(out.obsm["X_pca"].mean(0) - 5 * STEP) < 2.5


def test_after_the_last_time_the_flow_stays_as_it_was(fit):
    x, stopped = fit.course.snapshots[-1].x, cf.answers.held(fit)
    for time in (0.5, 4.0):
        torch.testing.assert_close(stopped.velocity(time, x), fit.velocity(time, x))
    with pytest.warns(UserWarning, match="an extrapolation"):
        torch.testing.assert_close(stopped.velocity(6.0, x), fit.velocity(4.0, x))


def test_only_times_after_the_last_one_are_forecast(fit):
    with pytest.raises(ValueError, match="one after 4"):
        cf.tl.forecast(fit, time=3.5)
    two = replace(fit, course=TimeCourse(fit.course.snapshots[:2]))
    with pytest.raises(ValueError, match="three or more"):
        cf.tl.forecast(two, time=5)


def test_a_fit_from_a_file_can_be_tried_again(fit, tmp_path):
    again = cf.load(fit.save(tmp_path / "fit"))
    errors = [cf.answers.forecast_errors(one, cuts=1, steps=5)[0] for one in (fit, again)]
    assert errors[0].model == pytest.approx(errors[1].model, rel=1e-5)
    assert errors[0].last == errors[1].last
    assert torch.tensor(errors[0].floor) > 0


def test_the_last_time_is_that_of_the_clock_and_masses_stay(fit):
    clock = Clock((0.0, 1.0, 3.0, 4.0), (0.0, 2.0, 2.5, 3.0))
    velocity = lambda t, x: t + 0 * x  # noqa: E731
    growing = cf.Dynamics(velocity, growth=lambda t, x: 1 + 0 * x[:, 0])
    stopped = cf.answers.held(replace(fit, clock=clock, dynamics=growing, preprocessing=None))
    last = fit.course.snapshots[-1]
    for moment, at in ((2.0, 2.0), (3.0, 3.0), (3.5, 3.0)):
        found = stopped.dynamics.velocity(torch.tensor(moment), last.x)
        torch.testing.assert_close(found, torch.full_like(last.x, at))
    with pytest.warns(UserWarning, match="an extrapolation"):
        assert torch.equal(stopped.predict(last, 6.0).mass, last.mass)


def test_cells_of_no_mass_are_of_no_matter():
    """Ghosts, which move as no other cell does."""
    rng, day = np.random.default_rng(1), np.arange(3)
    clouds = [rng.normal(size=(40, 2)) + k * STEP for k in day]
    ghosts = [np.full((40, 2), 100.0 * k**2) for k in day]
    both = [np.concatenate(parts) for parts in zip(clouds, ghosts, strict=True)]
    weights = [[1.0] * 40 + [1e-7] * 40] * 3
    errors = []
    for xs, masses in ((clouds, None), (both, weights)):
        fit = METHOD.fit(TimeCourse.from_arrays(xs, day, masses=masses), steps=1, progress=False)
        errors.append(cf.answers.forecast_errors(fit, cuts=1)[0])
    for name in ("last", "mean"):
        one, other = (getattr(error, name) for error in errors)
        assert one == pytest.approx(other, rel=1e-3)


def test_recurrent_cells_go_a_third_of_the_way_of_their_like(fit):
    """Two steps of the same translation at either of two places; units of data and of days."""
    rng = np.random.default_rng(0)
    side = np.repeat([0.0, 50.0], 100)
    cloud = np.stack([side, 0 * side], 1) + 0.01 * rng.normal(size=(200, 2))
    rate = np.where(side[:, None] > 0, [0.0, 3.0], [0.0, -6.0])
    course = TimeCourse.from_arrays([cloud + t * rate for t in (0.0, 1.0, 3.0)], (0.0, 1.0, 3.0))
    scaled = cf.preprocessing.Preprocessing(torch.ones(2), torch.tensor([2.0, 5.0]))
    clock = Clock((0.0, 1.0, 3.0), (0.0, 2.0, 6.0))
    known = replace(fit, course=course, preprocessing=scaled, clock=clock, origin={})
    going = cf.answers.recurrent(known)
    with pytest.warns(UserWarning, match="an extrapolation"):
        moved = going.interpolate(5.0).x.numpy() - course.snapshots[-1].x.numpy()
    np.testing.assert_allclose(moved, 2 * rate / 3, rtol=1e-4, atol=1e-3)
    assert torch.equal(going.velocity(0.5, course.x), going.velocity(2.5, course.x))
