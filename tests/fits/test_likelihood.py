"""Densities of fits: they integrate to one, in the user's units and time."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

import cellflow as cf
from cellflow import toys
from cellflow.batches import Batching
from cellflow.fits import Ensemble, Fit
from cellflow.fits.bases import gaussian_mixture
from cellflow.methods import METHODS
from cellflow.networks import MLPConfig
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.training.trainer import Training

F64 = torch.float64
SMALL = {
    "net": MLPConfig(width=16, depth=2),
    "batching": Batching(32, 32),
    "training": Training(learning_rate=1e-2, check_every=20),
}


def cells(n: int, d: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def course(d: int = 2) -> cf.TimeCourse:
    xs = [(1 + 0.3 * k) * cells(80 + k, d, k) + k for k in range(3)]
    return cf.TimeCourse.from_arrays(
        xs, [2.0, 3.0, 5.0], masses=[[m] * 80 + [m] * k for k, m in enumerate((1.0, 2.0, 2.5))]
    )


def fit(name: str, d: int = 2, **settings) -> Fit:
    return METHODS[name](**SMALL).fit(course(d), steps=60, progress=False, **settings)


def grid(low: float, high: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of a square of n times n cells, and the area of one."""
    side = low + (torch.arange(n, dtype=F64) + 0.5) * (high - low) / n
    return torch.cartesian_prod(side, side), ((high - low) / n) ** 2


@pytest.mark.parametrize("name", ["otcfm", "sf2m", "reach", "uotcfm"])
def test_density_integrates_to_one(name: str) -> None:
    """With whitening, a clock of its own, jumps, noise and growth."""
    whitened = fit_preprocessing(course().x, whiten=True)
    learned = fit(name, preprocessing=whitened)
    x, area = grid(-9.0, 13.0, 60)
    total = float(learned.log_prob(x, 3.7).exp().sum()) * area
    assert total == pytest.approx(1.0, abs=0.03 if learned.dynamics.growth else 1e-3)


def test_density_does_not_depend_on_the_coordinates_of_the_model() -> None:
    """A turned and scaled model of the same flow, from the same base in data coordinates."""
    plain = fit("otcfm")
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.7], [-0.7, 0.0]], dtype=F64))
    prep = Preprocessing(
        torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, 0.5], dtype=F64), turn
    )

    def velocity(t, z):
        return prep.apply(plain.dynamics.velocity(t, prep.invert(z)) + prep.mean)

    turned = cf.Fit(cf.Dynamics(velocity), plain.method, plain.course, plain.networks, prep)
    x, base = cells(9), MultivariateNormal(torch.ones(2, dtype=F64), 2 * torch.eye(2, dtype=F64))
    a, b = (f.likelihood(x, 4.0, base=base) for f in (plain, turned))
    assert_close(a.log_prob, b.log_prob)
    assert_close(a.base_cells, b.base_cells)


def test_density_on_fewer_components_is_that_of_the_projection() -> None:
    """Of the exact bridge on two whitened components of three."""
    source = toys.Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    bridge = toys.GaussianBridge(source, toys.Gaussian([1.0, 1.0], torch.eye(2)), sigma=0.5)
    learned = fit("sf2m", 3, preprocessing=fit_preprocessing(course(3).x, n_components=2))
    prep = learned.preprocessing
    prep = Preprocessing(prep.mean, torch.tensor([2.0, 0.5], dtype=F64), prep.loadings)
    exact = cf.Dynamics(lambda t, z: bridge.velocity(t - 2, z), lambda t, z: bridge.score(t - 2, z))
    known = Fit(exact, learned.method, learned.course, learned.networks, prep)
    x = cells(4, 3)
    law = bridge.at(0.6)
    z = prep.apply(x)
    expected = MultivariateNormal(law.mean, law.cov).log_prob(z) - math.log(2.0 * 0.5)
    base = MultivariateNormal(source.mean, source.cov)
    with pytest.raises(
        ValueError, match="`base`: got MultivariateNormal, expected None: a fit on 2"
    ):
        known.log_prob(x, 2.6, base=base)
    # The mixture of the first snapshot stands in for the base: the same flow, another density.
    mixture = gaussian_mixture(cf.Snapshot(prep.apply(learned.course.snapshots[0].x), 2.0))
    found = known.likelihood(x, 2.6)
    back = prep.apply(found.base_cells)
    shift = mixture.log_prob(back) - base.log_prob(back)
    assert_close(found.log_prob, expected + shift, rtol=1e-4, atol=1e-4)


def test_density_of_an_ensemble_is_the_mean_of_its_members() -> None:
    members = tuple(fit("otcfm", generator=seed) for seed in (0, 1))
    x = cells(9)
    found = Ensemble(members, (0, 1)).log_prob(x, 4.0).exp()
    assert_close(found, torch.stack([m.log_prob(x, 4.0).exp() for m in members]).mean(0))


def test_density_of_a_later_base_is_carried_back() -> None:
    learned, x = fit("otcfm"), cells(9)
    found = learned.likelihood(x, 2.0, base_time=5.0)
    law = gaussian_mixture(learned.course.snapshots[2])
    there = learned.simulate(x, [2.0, 5.0]).final
    assert_close(found.base_cells, there)
    assert not torch.allclose(found.log_prob, learned.log_prob(x, 2.0), rtol=1e-3)
    assert torch.equal(learned.likelihood(there, 5.0, base_time=5.0).log_prob, law.log_prob(there))


@pytest.mark.filterwarnings("error")
def test_density_beyond_the_course_is_an_extrapolation() -> None:
    with pytest.raises(UserWarning, match="6 is outside the fit's times, 2 to 5"):
        fit("otcfm").log_prob(cells(3), 6.0)


def test_mixture_finds_the_components_of_a_known_one() -> None:
    a, b = cells(600, seed=1) * 0.5 + 4, cells(300, seed=2) - 3
    law = gaussian_mixture(cf.Snapshot(torch.cat([a, b]), 0.0))
    weights, order = law.mixture_distribution.probs.sort()
    assert_close(weights, torch.tensor([1 / 3, 2 / 3], dtype=F64), atol=0.01, rtol=0)
    means = law.component_distribution.mean[order]
    assert_close(means, torch.tensor([[-3.0, -3.0], [4.0, 4.0]], dtype=F64), atol=0.25, rtol=0)
    # By mass: the second cloud ten times as heavy a cell.
    heavy = cf.Snapshot(torch.cat([a, b]), 0.0, [1.0] * 600 + [10.0] * 300)
    found = gaussian_mixture(heavy).mixture_distribution.probs.max()
    assert float(found) == pytest.approx(3000 / 3600, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_mixture_of_a_few_cells_is_finite(n: int) -> None:
    for x in (cells(n, 4), torch.zeros(n, 4, dtype=torch.float32) + 7):
        law = gaussian_mixture(cf.Snapshot(x, 0.0))
        assert bool(torch.isfinite(law.log_prob(x)).all())
