"""Laws of every density, over the registry."""

from __future__ import annotations

import math

import pytest
import torch

from cellflow._files import read_state, write_state
from cellflow.densities import DENSITIES, Density, InvertibleModel, from_facts
from cellflow.training import Training

#: Every member, and settings that take other ways through the code; small, for speed.
SETTINGS: dict[str, tuple[str, dict]] = {name: (name, {}) for name in DENSITIES} | {
    "attnflow_map": ("attnflow", {"kind": "map", "programs": (1, 0, 1)}),
    "attnflow_uneven": ("attnflow", {"programs": (0, 0, 1)}),
}
INVERTIBLE = [name for name, (kind, _) in SETTINGS.items() if DENSITIES[kind].invertible]
#: Inverted by bisection, of its values, to 1e-6 of a standard deviation, over the slope.
BISECTED = {"naf", "unaf"}


def density(name: str) -> Density:
    kind, settings = SETTINGS[name]
    small = {"width": 16, "depth": 1} | ({"size": 2} if kind in BISECTED else {})
    return DENSITIES[kind](batch_size=64, **small, **settings)


def cells(n: int = 400, *, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Two bent clusters in units of their own."""
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=dtype)
    z[:, -1] += 0.5 * z[:, 0] ** 2
    z[: n // 3, 0] += 4
    return z * torch.logspace(1, -1, dim, dtype=dtype) + 5


_fitted: dict = {}


def fitted(name: str, dim: int = 3, dtype: torch.dtype = torch.float64):
    """A fit of a few steps, whose weights are then moved: no layer rests."""
    if (name, dim, dtype) not in _fitted:
        steps = 100 if name == "naf" else 5  # whose map is nearly flat at first
        fit = density(name).fit(cells(dim=dim, dtype=dtype), steps=steps)
        generator = torch.Generator().manual_seed(2)
        for weight in fit.flow.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight += 0.03 * noise.to(weight)
        _fitted[name, dim, dtype] = fit
    return _fitted[name, dim, dtype]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_log_prob_is_that_of_the_base_and_the_jacobian(name):
    fit, x = fitted(name), cells()[::50]
    z = fit.encode(x)
    jacobian = [torch.autograd.functional.jacobian(fit.encode, row[None])[0, :, 0] for row in x]
    base = -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi)
    expected = base + torch.linalg.slogdet(torch.stack(jacobian)).logabsdet
    torch.testing.assert_close(fit.log_prob(x), expected)


@pytest.mark.parametrize("name", INVERTIBLE)
def test_every_layer_inverts_in_single_precision(name):
    fit = fitted(name, dtype=torch.float32)
    z = fit.scaling.apply(cells(dtype=torch.float32))
    for layer in fit.flow().transform.transforms:
        out = layer(z)
        tolerance = 1e-5 if name in BISECTED else 1e-6
        assert float((layer.inv(out) - z).abs().max()) <= tolerance * float(z.abs().max())
        z = out


@pytest.mark.parametrize("name", INVERTIBLE)
def test_decode_undoes_encode_in_the_units_of_the_data(name):
    fit, x = fitted(name), cells()[::8]
    tolerance = 1e-5 if name in BISECTED else 1e-9
    torch.testing.assert_close(fit.decode(fit.encode(x)), x, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("name", [n for n in SETTINGS if len(SETTINGS[n][1]) == 0])
def test_density_integrates_to_one(name):
    fit, (n, reach) = fitted(name, 2), (100 if name in BISECTED else 160, 8.0)
    centres = (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * reach / n) - reach
    grid = torch.cartesian_prod(centres, centres)  # of standardised cells
    total = fit.log_prob(fit.scaling.invert(grid)).exp().sum() * (2 * reach / n) ** 2
    total, expected, error = float(total * fit.scaling.scale.prod()), 1.0, 2e-3
    if name in BISECTED:  # young ones have tails beyond the grid
        inside = fit.scaling.apply(fit.sample(500)).abs().amax(1) < reach
        expected = float(inside.double().mean())
        error += 4 * (expected * (1 - expected) / 500) ** 0.5
    assert total == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("name", SETTINGS)
def test_fit_comes_back_from_its_facts_and_tensors(name, tmp_path):
    fit, x = fitted(name), cells()
    write_state(tmp_path / "density.safetensors", fit.tensors(), fit.facts())
    tensors, facts = read_state(tmp_path / "density.safetensors")
    back = from_facts(facts, tensors)
    assert back.density == fit.density and back.history == fit.history
    assert isinstance(back, InvertibleModel) and back.dim == 3
    torch.testing.assert_close(back.log_prob(x), fit.log_prob(x), rtol=0, atol=0)
    torch.testing.assert_close(back.sample(5), fit.sample(5), rtol=0, atol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_everything_random_follows_from_seeds(name):
    before = torch.get_rng_state()
    same, again, other = (density(name).fit(cells(), steps=2, generator=g) for g in (0, 0, 1))
    assert all(torch.equal(v, again.tensors()[k]) for k, v in same.tensors().items())
    assert not torch.equal(same.log_prob(cells()), other.log_prob(cells()))
    assert torch.equal(same.sample(9, generator=3), again.sample(9, generator=3))
    assert not torch.equal(same.sample(9, generator=3), same.sample(9, generator=4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [n for n in SETTINGS if len(SETTINGS[n][1]) == 0])
def test_one_dimension(name):
    fit = density(name).fit(cells(dim=1), steps=5)
    assert fit.sample(4).shape == (4, 1)
    assert bool(torch.isfinite(fit.log_prob(cells(dim=1))).all())


def test_units_shift_the_log_density():
    x = cells()
    one, other = (DENSITIES["nsf"]().fit(scale * x, steps=20) for scale in (1.0, 1024.0))
    expected = one.log_prob(x) - 3 * math.log(1024)
    torch.testing.assert_close(other.log_prob(1024 * x), expected)
    for losses in ("train_loss", "validation_loss"):
        before, after = (getattr(fit.history, losses)[-1] for fit in (one, other))
        assert after == pytest.approx(before + 3 * math.log(1024)), losses


def test_answers_are_differentiable_in_cells_alone():
    fit, x = fitted("realnvp"), cells().requires_grad_()
    assert fit.log_prob(x).requires_grad and not fit.log_prob(x.detach()).requires_grad
    assert not fitted("naf").log_prob(x.detach()).requires_grad


def test_device_and_dtype_follow_the_data_or_what_is_asked():
    x = cells(dtype=torch.float32)
    assert DENSITIES["maf"]().fit(x, steps=1).sample(2).dtype == torch.float32
    assert DENSITIES["maf"]().fit(x, steps=1, dtype=torch.float64).sample(2).dtype == torch.float64
    assert DENSITIES["maf"]().fit(x.numpy(), steps=1).encode(x.numpy()).shape == x.shape


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ValueError, match="`size`: got 0"):
        DENSITIES["maf"](0)
    with pytest.raises(ValueError, match="constant dimensions"):
        DENSITIES["maf"]().fit(torch.ones(20, 2))
    with pytest.raises(ValueError, match="no map"):
        fitted("gmm").encode(cells())
    with pytest.raises(ValueError, match="2 dimensions, expected 3"):
        fitted("maf").log_prob(cells(dim=2))
    with pytest.raises(ValueError, match="`programs`: got 3"):
        DENSITIES["attnflow"](programs=(0, 0, 1)).fit(cells(dim=2))
    wild = Training(learning_rate=1e30, check_every=5)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        DENSITIES["maf"](training=wild).fit(cells(), steps=20)
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(ImportError, match=r"cellflow-sb\[densities\]"):
        DENSITIES["maf"]().fit(cells(), steps=1)
