"""Densities against zuko's own flows with the same weights, and against known ones."""

from __future__ import annotations

import math

import pytest
import torch
import zuko
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cellflow.densities import DENSITIES
from cellflow.densities.density import FittedDensity
from cellflow.training import Training

SHAPE = {"transforms": 2, "hidden_features": (16,)}
INNER = {"network": {"hidden_features": (16, 16)}}
#: What zuko calls them.
SAME = {
    "realnvp": lambda: zuko.flows.RealNVP(3, **SHAPE),
    "maf": lambda: zuko.flows.MAF(3, **SHAPE),
    "naf": lambda: zuko.flows.NAF(3, **SHAPE),
    "unaf": lambda: zuko.flows.UNAF(3, **SHAPE, **INNER),
    "nsf": lambda: zuko.flows.NSF(3, **SHAPE),
    "gmm": lambda: zuko.flows.GMM(3, components=2),
}


def cells(n: int = 300, dim: int = 3) -> torch.Tensor:
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return z * torch.logspace(1, -1, dim, dtype=z.dtype) + 5


def fitted(name: str, dim: int = 3, steps: int = 5, **settings: object) -> FittedDensity:
    density = DENSITIES[name](**{"size": 2, "width": 16, "depth": 1} | settings)
    return density.fit(cells(dim=dim), steps=steps)


@pytest.mark.parametrize("name", SAME)
def test_same_weights_give_the_density_of_zuko(name):
    fit, flow, x = fitted(name), SAME[name]().double().eval(), cells()
    flow.load_state_dict(fit.flow.state_dict())
    std, mean = torch.std_mean(x, 0, correction=0)
    expected = flow().log_prob((x - mean) / std) - std.log().sum()
    torch.testing.assert_close(fit.log_prob(x), expected)


def test_iaf_is_zukos_maf_backwards():
    fit, maf = fitted("iaf"), zuko.flows.MAF(3, **SHAPE).double()
    weights = fit.flow.transform.state_dict()
    maf.transform.load_state_dict({k.removeprefix("transform."): v for k, v in weights.items()})
    z = torch.randn(20, 3, dtype=torch.float64)
    x, log_det = maf().transform.call_and_ladj(z)
    torch.testing.assert_close(fit.decode(z), fit.scaling.invert(x))
    base = -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi)
    expected = base - log_det - fit.scaling.scale.log().sum()
    torch.testing.assert_close(fit.log_prob(fit.decode(z)), expected)


def test_nice_scales_volumes_equally_everywhere():
    fit = fitted("nice", steps=50)
    _, log_det = fit.flow().transform.call_and_ladj(fit.scaling.apply(cells()))
    assert float(log_det.max() - log_det.min()) < 1e-12


def mixture() -> MixtureSameFamily:
    means = torch.tensor([[0.0, 0.0], [4.0, 1.0], [-2.0, 4.0]])
    spread = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[0.2, 0.0], [0.0, 1.0]]])
    spread = torch.cat([spread, torch.tensor([[[1.0, -0.6], [-0.6, 0.5]]])])
    return MixtureSameFamily(
        Categorical(torch.tensor([0.5, 0.3, 0.2])), MultivariateNormal(means, spread)
    )


@pytest.mark.parametrize(
    ("name", "steps", "worst"), [("gmm", 50, 0.01), ("nsf", 100, 0.15), ("naf", 100, 0.7)]
)
def test_likelihood_is_near_the_known_one_and_not_above_it(name, steps, worst):
    """The mean difference on fresh cells is minus a Kullback-Leibler divergence."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, fresh = mixture().sample((8000,)), mixture().sample((20_000,))
    fit = DENSITIES[name](3, training=Training(learning_rate=1e-2, ema=0.9)).fit(x, steps=steps)
    gain = fit.log_prob(fresh) - mixture().log_prob(fresh)
    error = float(gain.std()) / len(gain) ** 0.5
    assert -worst < float(gain.mean()) < 3 * error


@pytest.mark.parametrize("name", ["glow", "attnflow"])
def test_first_weights_normalise_the_cells_in_every_layer(name):
    density = DENSITIES[name](width=16)
    flow, z = density.build(3).double(), cells() / 7
    density.start(flow, z)
    layers = [layer() for layer in flow.transform.transforms]
    for kind, layer in zip(flow.transform.transforms, layers, strict=True):
        z = layer(z)
        if isinstance(kind, zuko.flows.ElementWiseTransform):
            torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=z.dtype))
            torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=z.dtype))
    assert torch.equal(z, z) and len(layers) == (24 if name == "glow" else 18)


def test_attention_moves_programs_by_their_means_alone():
    fit = fitted("attnflow", dim=8, steps=30, programs=(0, 0, 0, 1, 1, 2, 2, 2))
    z = fit.scaling.apply(cells(dim=8))
    layer, other = fit.flow.transform.transforms[2::3]
    assert torch.equal(layer.fixed, ~other.fixed)  # each half in its turn
    moved, change = ~layer.fixed, (layer()(z) - z)
    assert torch.equal(change[:, layer.fixed], torch.zeros_like(change[:, layer.fixed]))
    labels = torch.tensor(fit.density.programs)[moved]
    change = change[:, moved]
    assert float(change.abs().max()) > 1e-3
    for program in labels.unique():
        same = change[:, labels == program]
        torch.testing.assert_close(same, same[:, :1].expand_as(same))


def test_a_mixture_of_one_starts_as_the_normal_law_of_the_cells():
    turn = torch.tensor([[1.0, 0.5, -0.8], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]], dtype=torch.float64)
    density, z = DENSITIES["gmm"](1), cells() @ turn
    flow = density.build(3).double()
    density.start(flow, z)
    cov = torch.cov(z.T, correction=0) + 1e-4 * torch.eye(3)
    law = MultivariateNormal(z.mean(0), cov)
    torch.testing.assert_close(flow().log_prob(z), law.log_prob(z), rtol=0, atol=1e-3)
