"""How a stochastic fit is put together, and what its parts answer in the data's coordinates."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse
from cellflow.batches import Batching, CouplingHealth, PairSampler
from cellflow.couplings import Independent
from cellflow.networks import MLPConfig
from cellflow.plans.forms import ProductPlan
from cellflow.preprocessing import fit_preprocessing
from cellflow.training.cells import natural_sigma, split
from cellflow.training.trainer import Training
from oracles import F64

SIGMA = 0.7
PARTS = {
    "net": MLPConfig(16, 2),
    "batching": Batching(32, 32, prefetch=False),
    "training": Training(validation=0.0),
}


def cloud(n: int, seed: int) -> torch.Tensor:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x * torch.tensor([3.0, 1.0, 0.2], dtype=F64) + seed


def course() -> TimeCourse:
    return TimeCourse.from_arrays([cloud(60 + k, k) for k in range(3)], [1.0, 1.5, 3.5])


def tiny(method, **options) -> cf.Fit:
    return method.fit(course(), steps=20, progress=False, **options)


@pytest.fixture(scope="module")
def fit() -> cf.Fit:
    return tiny(cf.SF2M(SIGMA, **PARTS))


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.0), (1.1, 0.2), (1.5, 0.0), (2.5, 0.5), (3.4, 0.95)])
def test_drifts_are_made_of_the_mean_velocity_and_the_score(fit, t: float, s: float) -> None:
    """Forward u + σ² s score, backward u - σ² (1 - s) score: bounded at both ends."""
    x, time = cloud(9, 9), torch.tensor(t, dtype=F64)
    with torch.no_grad():
        u, score = (fit.networks[name](time, x) for name in ("velocity", "score"))
        assert_close(fit.dynamics.drift(time, x), u + SIGMA**2 * s * score)
        assert_close(fit.dynamics.reverse_drift(time, x), u - SIGMA**2 * (1 - s) * score)
    assert_close(fit.velocity(t, x), u + 0.5 * SIGMA**2 * (2 * s - 1) * score)
    assert_close(fit.score(t, x), score)


def test_a_fit_knows_where_its_fields_jump_and_how_noisy_they_are(fit) -> None:
    assert fit.dynamics.breaks == (1.0, 1.5, 3.5)
    assert fit.dynamics.sigma == SIGMA
    plain = tiny(cf.OTCFM(0.1, **PARTS))
    assert plain.dynamics.breaks == ()
    assert plain.dynamics.sigma == 0.0
    x = cloud(9, 9)
    below, above = fit.velocity(1.5 - 1e-9, x), fit.velocity(1.5, x)
    jump = SIGMA**2 * fit.score(1.5, x)
    assert_close(below - above, jump, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_components", [None, 3, 2])
@pytest.mark.parametrize("whiten", [False, True])
def test_the_score_is_a_gradient_in_the_datas_coordinates(n_components, whiten) -> None:
    """A gradient goes back by the transpose of the map's derivative, unlike a velocity."""
    prep = fit_preprocessing(course().x, n_components=n_components, whiten=whiten)
    fit, x = tiny(cf.SF2M(SIGMA, **PARTS), preprocessing=prep), cloud(9, 9)
    with torch.no_grad():
        inside = fit.dynamics.score(torch.tensor(2.0, dtype=F64), prep.apply(x))
    slope = torch.func.jacrev(lambda y: prep.apply(y[None])[0])(x[0])
    assert_close(fit.score(2.0, x), inside @ slope)


def test_growth_is_asked_in_the_datas_coordinates() -> None:
    prep = fit_preprocessing(course().x, n_components=2, whiten=True)
    fit, x = tiny(cf.methods.UBSB(SIGMA, **PARTS), preprocessing=prep), cloud(9, 9)
    with torch.no_grad():
        inside = fit.dynamics.growth(torch.tensor(2.0, dtype=F64), prep.apply(x))
    assert_close(fit.growth(2.0, x), inside)
    assert fit.growth(2.0, x).shape == (9,)


@pytest.mark.parametrize("part", ["score", "growth"])
def test_what_was_not_learned_is_said(part: str) -> None:
    fit = tiny(cf.OTCFM(**PARTS))
    with pytest.raises(ValueError, match=f"`{part}`: got a fit of 'otcfm', expected a method that"):
        getattr(fit, part)(1.0, cloud(3, 0))


def test_a_block_stands_for_the_mass_of_its_snapshot() -> None:
    """So that what a block's plan says of the growth of the whole is that of the snapshots."""
    met = []

    def spy(source: Snapshot, target: Snapshot):
        met.append((float(source.mass.sum()), float(target.mass.sum()), len(source)))
        return Independent()(source, target)

    cells = [cloud(40, 0), cloud(50, 1)]
    masses = [torch.full((40,), 0.5), torch.linspace(1, 3, 50)]
    sampler = PairSampler(
        TimeCourse.from_arrays(cells, masses=masses), spy, Batching(20, 10, prefetch=False)
    )
    sampler.batch(0)
    sampler.close()
    assert len(met) >= 4
    for source, target, n in met:
        assert n == 10
        assert source == pytest.approx(20.0)
        assert target == pytest.approx(100.0)


def test_the_same_for_prior_growth_of_its_cells() -> None:
    met = []

    def spy(source: Snapshot, target: Snapshot):
        met.append((source.x[:, 0], source.growth))
        return Independent()(source, target)

    cells = [cloud(40, 0), cloud(50, 1)]
    course = TimeCourse.from_arrays(cells, growths=[cells[0][:, 0], None])
    sampler = PairSampler(course, spy, Batching(20, 10, prefetch=False))
    sampler.batch(0)
    sampler.close()
    for x, growth in met:
        assert torch.equal(x, growth)


def test_both_sides_of_a_split_have_the_mass_of_the_whole() -> None:
    masses = [torch.linspace(1, 3, 40, dtype=F64), torch.full((50,), 0.1, dtype=F64)]
    whole = TimeCourse.from_arrays([cloud(40, 0), cloud(50, 1)], masses=masses)
    for part in split(whole, 0.2, 0):
        for s, mass in zip(part.snapshots, masses, strict=True):
            assert float(s.mass.sum()) == pytest.approx(float(mass.sum()))


def test_a_relative_sigma_is_that_of_the_data_in_coupling_and_path() -> None:
    """Snapshots of variance 4 at a mean interval of 1.25: noise reaches 2 in that time."""
    xs = [torch.tensor([[-2.0], [2.0]], dtype=F64) + k for k in range(3)]
    course = TimeCourse.from_arrays(xs, [1.0, 1.5, 3.5])
    assert natural_sigma(course) == pytest.approx(2.0 / 1.25**0.5)
    relative = cf.SF2M()
    method = relative.scaled_to(course)
    for part in ("coupling", "path"):
        share = getattr(relative, part).sigma
        assert getattr(method, part).sigma == pytest.approx(share * 2.0 / 1.25**0.5)
    assert cf.SF2M(0.4).scaled_to(course).path.sigma == 0.4


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_beyond_the_course_the_bridge_stays_as_at_its_ends(fit) -> None:
    x = cloud(9, 9)
    for t, sign in ((0.5, -1), (4.5, 1)):
        with torch.no_grad():
            u = fit.networks["velocity"](torch.tensor(t, dtype=F64), x)
        assert_close(fit.velocity(t, x), u + sign * 0.5 * SIGMA**2 * fit.score(t, x))


def test_mass_without_descendants_is_counted_over_plans() -> None:
    health = CouplingHealth()
    rates = torch.tensor([0.0, 0.0, -9.0, 0.0], dtype=F64)
    a = torch.full((4,), 0.25, dtype=F64)
    for growth in (rates, torch.zeros(4, dtype=F64)):
        health.add(ProductPlan(a=a, b=a, cost=1.0, source_growth=growth, target_growth=0 * a))
    assert health.summary()["mean_childless"] == 0.125
