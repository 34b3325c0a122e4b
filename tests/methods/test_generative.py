"""Generative models of one cloud from noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow.couplings import Independent
from cellflow.densities import InvertibleModel
from cellflow.methods import GENERATIVE, METHODS, FittedGenerative, FlowMatching, Generative
from cellflow.paths import ConditionalOT, Straight, VarianceExploding, VariancePreserving
from cellflow.training import FitOptions, Training


def cloud(n: int = 800) -> torch.Tensor:
    """A Gaussian far from the standard one."""
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return z @ torch.tensor([[2.0, 0.5], [0.0, 0.5]]) + torch.tensor([10.0, -4.0])


@pytest.fixture(scope="module")
def fitted() -> dict[str, FittedGenerative]:
    training = Training(learning_rate=3e-3, ema=0.99)
    found = {}
    for name in GENERATIVE:
        flow = replace(GENERATIVE[name]().flow, training=training)
        found[name] = Generative(flow).fit(cloud(), steps=400)
    return found


@pytest.mark.parametrize("name", GENERATIVE)
def test_samples_have_the_moments_of_the_cloud(fitted, name) -> None:
    x, y = cloud(), fitted[name].sample(1000, generator=1)
    assert_close(y.mean(0), x.mean(0), rtol=0, atol=0.3)
    assert_close(y.T.cov(), x.T.cov(), rtol=0, atol=0.6)


@pytest.mark.parametrize("name", GENERATIVE)
def test_base_is_normal_and_the_map_inverts(fitted, name) -> None:
    model, x = fitted[name], cloud()
    assert model.dim == 2
    z = model.encode(x)
    assert_close(model.decode(z), x, rtol=0, atol=2e-2)
    assert z.mean(0).abs().max() < 0.2
    assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.4)


def test_reverse_process_draws_the_same_law(fitted) -> None:
    y = fitted["vp"].sample(1000, solver="sra1", generator=2, max_step=0.01)
    assert_close(y.mean(0), cloud().mean(0), rtol=0, atol=0.4)
    assert_close(y.T.cov(), cloud().T.cov(), rtol=0, atol=1.5)


def test_draws_follow_the_seed(fitted) -> None:
    model = fitted["vp"]
    assert torch.equal(model.sample(5, generator=3), model.sample(5, generator=3))
    assert not torch.equal(model.sample(5, generator=3), model.sample(5, generator=4))


def test_saved_model_is_the_same(fitted, tmp_path) -> None:
    for name, model in fitted.items():
        same = FittedGenerative(cf.load(model.fit.save(tmp_path / name)))
        assert same.fit.method == model.fit.method
        assert torch.equal(same.sample(4), model.sample(4))


@pytest.mark.parametrize("name", GENERATIVE)
def test_density_is_near_the_clouds_and_integrates_to_one(fitted, name) -> None:
    model, x = fitted[name], cloud()
    law = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert float((law.log_prob(x[:200]) - model.log_prob(x[:200])).mean()) < 0.3
    axes = [torch.linspace(m - 6 * s, m + 6 * s, 41) for m, s in zip(x.mean(0), x.std(0))]
    grid = torch.cartesian_prod(*axes)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert float(model.log_prob(grid).exp().sum() * cell) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("predict", ["noise", "score", "target"])
def test_predictions_times_and_their_number_are_settings(predict) -> None:
    how = {"timesteps": "logit_normal", "times_per_pair": 2, "predict": predict}
    flow = FlowMatching(Independent(), VariancePreserving(), **how)
    y = Generative(flow).fit(cloud(), steps=200).sample(400)
    assert_close(y.mean(0), cloud().mean(0), rtol=0, atol=0.8)


def test_times_change_a_fit_between_cells_and_the_default_does_not() -> None:
    course = cf.TimeCourse.from_arrays([cloud(60), cloud(80) + 1], [0.0, 1.0])

    def weights(**how) -> torch.Tensor:
        fit = replace(METHODS["otcfm"](), **how).fit(course, steps=3, progress=False)
        return torch.cat([p.detach().flatten() for p in fit.networks.parameters()])

    plain = weights()
    assert torch.equal(plain, weights(timesteps="uniform", times_per_pair=1))
    assert torch.equal(plain, weights(timesteps=lambda u: u))
    assert not torch.equal(plain, weights(timesteps="mode"))
    for wrong in (lambda u: 3 * u, lambda u: u[:, 0], lambda u: u - 0.5):
        with pytest.raises(ValueError, match="`timesteps`: got one with values.*fractions"):
            weights(timesteps=wrong)
    assert not torch.equal(plain, weights(times_per_pair=2))


def test_path_from_noise_is_refused_between_snapshots() -> None:
    course = cf.TimeCourse.from_arrays([cloud(20), cloud(20), cloud(20)], [0.0, 1.0, 2.0])
    method = FlowMatching(Independent(), ConditionalOT())
    with pytest.raises(ValueError, match="`path`: got ConditionalOT, expected a path between"):
        method.fit(course, steps=2, progress=False)
    options = FitOptions(steps=2, progress=False)
    with pytest.raises(ValueError, match="`path`"):
        cf.several.fit_members(method, course, options, members=2, workers=1)
    with pytest.raises(ValueError, match="`base`"):
        cf.methods.Iterated(method)
    with pytest.raises(ValueError, match="`path`: got Straight, expected a path from noise"):
        Generative(METHODS["icfm"]())
    assert not set(GENERATIVE) & set(METHODS)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"predict": "speed"}, "predict"),
        ({"path": Straight(), "predict": "noise"}, "predict"),
        ({"path": VarianceExploding(extra=3), "predict": "score"}, "predict"),
        ({"score": True}, "path"),
        ({"timesteps": "often"}, "timesteps"),
        ({"times_per_pair": 0}, "times_per_pair"),
    ],
)
def test_settings_that_make_no_sense_are_named(how, name) -> None:
    with pytest.raises(ValueError, match=f"`{name}`: got"):
        FlowMatching(**({"coupling": Independent(), "path": ConditionalOT()} | how))


def test_every_model_is_invertible(fitted) -> None:
    assert all(isinstance(model, InvertibleModel) for model in fitted.values())
