"""The Sinkhorn divergence against POT, between Gaussians, and at its two ends."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm

from cellflow.metrics import sinkhorn_divergence, wasserstein2
from clouds import normal


def grid(mean: tuple[float, float], covariance: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A normal law in the plane as masses on a grid of five standard deviations."""
    step = torch.linspace(-5.0, 5.0, 31, dtype=torch.float64)
    z = torch.cartesian_prod(step, step)
    mass = torch.exp(-0.5 * z.square().sum(1))
    root = torch.tensor(np.linalg.cholesky(covariance))
    return z @ root.T + torch.tensor(mean, dtype=torch.float64), mass


def between_gaussians(m, a, n, b, epsilon: float) -> float:
    """Janati, Muzellec, Peyré and Cuturi (2020), theorem 1, for half the cost and σ² = ε."""

    def bures(a, b):
        root = sqrtm(a).real
        d = sqrtm(4 * root @ b @ root + epsilon**2 * np.eye(2)).real
        return np.trace(a + b - d) + epsilon * np.log(np.linalg.det(d + epsilon * np.eye(2)))

    gap = np.square(np.subtract(m, n)).sum()
    return 0.5 * (gap + bures(a, b) - (bures(a, a) + bures(b, b)) / 2)


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_divergence_of_gaussians_is_the_closed_form(epsilon):
    m, n = (0.0, 0.0), (1.0, -0.5)
    a, b = np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([[0.6, -0.2], [-0.2, 1.5]])
    (x, mass), (y, other) = grid(m, a), grid(n, b)
    found = sinkhorn_divergence(x, y, x_mass=mass, y_mass=other, epsilon=epsilon)
    assert found == pytest.approx(between_gaussians(m, a, n, b, epsilon), rel=1e-4)


def test_divergence_is_that_of_pot():
    x, y = normal(40, 3), 1.5 * normal(30, 3, seed=1) + 0.5

    def cost(x, y):
        ground = ot.dist(x.numpy(), y.numpy()) / 2
        plan = ot.bregman.sinkhorn_log([], [], ground, 3.0, numItermax=20000, stopThr=1e-9)
        product = np.full(plan.shape, 1 / plan.size)
        return (plan * ground).sum() + 3.0 * (plan * np.log(plan / product)).sum()

    ours = sinkhorn_divergence(x, y, epsilon=3.0)
    assert ours == pytest.approx(cost(x, y) - (cost(x, x) + cost(y, y)) / 2, rel=1e-8)


def test_divergence_lies_between_transport_and_the_distance_of_means():
    x, y = normal(60, 3), 1.5 * normal(60, 3, seed=1) + 0.5
    assert sinkhorn_divergence(x, y, epsilon=1e-3) == pytest.approx(
        wasserstein2(x, y) ** 2 / 2, rel=0.01
    )
    means = (x.mean(0) - y.mean(0)).square().sum() / 2
    assert sinkhorn_divergence(x, y, epsilon=1e4) == pytest.approx(float(means), rel=0.01)


def test_divergence_of_equal_clouds_is_zero_at_any_epsilon():
    x = normal(50, 4)
    for epsilon in (0.01, 1.0, 100.0, None):
        assert sinkhorn_divergence(x, x.flip(0), epsilon=epsilon) < 1e-10
    assert sinkhorn_divergence(torch.zeros(3, 2), torch.zeros(4, 2)) == 0.0


def test_what_cannot_be_is_refused():
    x = normal(5, 2)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`epsilon`: got"):
            sinkhorn_divergence(x, x, epsilon=bad)
    with pytest.raises(ValueError, match="`x`: got 5,001 cells, expected at most 5,000"):
        sinkhorn_divergence(normal(5001, 1), x[:, :1])
