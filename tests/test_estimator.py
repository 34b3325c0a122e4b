"""The scikit-learn face: all of scikit-learn's own checks, and what carrying means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cellflow import OTCFM, FlowTransport
from cellflow.networks import MLPConfig
from cellflow.training import Training

METHOD = OTCFM(0.0, net=MLPConfig(width=64), training=Training(learning_rate=5e-3, ema=0.99))


@parametrize_with_checks([FlowTransport(steps=2)])
def test_scikit_learn_finds_nothing(estimator, check):
    check(estimator)


@pytest.mark.parametrize("asked", ["transform", "inverse_transform", "score_samples", "score"])
def test_what_was_not_fitted_says_so(asked):
    with pytest.raises(NotFittedError, match="This FlowTransport instance is not fitted yet"):
        getattr(FlowTransport(), asked)(np.zeros((3, 2)))


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """Two clumps, far from normal."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(400, 2)) * 0.4 + np.where(rng.random((400, 1)) < 0.5, -2.0, 2.0)


@pytest.fixture(scope="module")
def fitted(points) -> FlowTransport:
    return FlowTransport(METHOD, steps=400).fit(points)


def test_points_become_normal_and_return(points, fitted):
    normal = fitted.transform(points)
    # Of 400 normal draws means are within 3 standard errors, .15; the clumps' spread was 2.
    assert np.abs(normal.mean(0)).max() < 0.3
    assert np.abs(normal.std(0) - 1).max() < 0.3
    np.testing.assert_allclose(fitted.inverse_transform(normal), points, atol=1e-3)


def test_draws_are_like_the_points(points, fitted):
    drawn = fitted.sample(500, random_state=1)
    assert drawn.shape == (500, 2) and drawn.dtype == points.dtype
    assert np.mean(np.abs(np.abs(drawn[:, 0]) - 2) < 1.2) > 0.85
    assert np.array_equal(drawn, fitted.sample(500, random_state=1))


def test_density_is_that_of_two_clumps(points, fitted):
    found = fitted.score_samples(points)
    distance = ((points[:, None] - np.array([[-2, -2], [2, 2]])) ** 2).sum(-1)
    exact = np.log(np.exp(-distance / 0.32).sum(1) / 2 / (2 * np.pi * 0.16))
    assert abs(found.mean() - exact.mean()) < 0.35  # a flow smears clumps; measured .2
    assert fitted.score(points) == pytest.approx(found.mean())
    assert fitted.score_samples(np.zeros((1, 2)))[0] < found.mean() - 1


def test_a_target_takes_their_place(points):
    elsewhere = np.random.default_rng(1).normal(5.0, 0.5, size=(300, 2))
    done = FlowTransport(METHOD, target=elsewhere, steps=400).fit(points)
    moved = done.transform(points)
    assert np.abs(moved.mean(0) - 5).max() < 0.2
    assert np.abs(done.sample(200)).mean() > 1.3  # of clumps at -2 and 2; the target is not there
    with pytest.raises(ValueError, match="`target`: got 3 dimensions"):
        FlowTransport(METHOD, target=np.zeros((9, 3)), steps=1).fit(points)


def test_a_pipeline_hands_classes_past_it(points):
    labels = points[:, 0] > 0
    line = make_pipeline(StandardScaler(), FlowTransport(METHOD, steps=50), LogisticRegression())
    assert clone(line).fit(points, labels).score(points, labels) > 0.95
