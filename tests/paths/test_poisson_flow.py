"""Poisson flow: the path whose velocity is the direction of an electric field."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from cellflow.paths import VarianceExploding
from cellflow.paths.prediction import Mix


def normals(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("extra", "d"), [(1, 2), (3, 1), (64, 5)])
def test_noise_is_students(extra: int, d: int) -> None:
    """Squared lengths over d are F distributed, and directions are as they were."""
    path, z = VarianceExploding(extra=extra), normals(4000, d)
    noise = path.from_normal(z)
    assert stats.kstest(noise.square().sum(1) / d, stats.f(d, extra).cdf).pvalue > 1e-3
    assert_close(noise / noise.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True))
    assert_close(path.to_normal(noise), z)
    law = stats.multivariate_t(df=extra, shape=path.sigma_max**2 * torch.eye(d).numpy())
    expected = torch.as_tensor(law.logpdf(path.sigma_max * noise)).reshape(-1)
    assert_close(path.log_prob(path.sigma_max * noise), expected)


def test_many_dimensions_are_the_variance_exploding_path() -> None:
    z = normals(500, 3)
    assert_close(VarianceExploding(extra=10**8).from_normal(z), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [1, 2, 7])
def test_velocity_is_the_electric_field_of_the_charges(extra: int) -> None:
    """The mean target among a few charges, by Bayes, moves cells along the field's lines.

    In d + D dimensions the potential of a charge is r^(2 - d - D). By symmetry only the radius r
    of the extra ones matters, and dx / dr = E_x / E_r.
    """
    d, path = 2, VarianceExploding(extra=extra)
    charges, x = normals(4, d), 2 * normals(9, d)[4:]
    s = torch.full((5, 1), 0.6, dtype=torch.float64)
    mix = Mix.of(path, s, x)
    # The law of the noise, by scipy: Student's, with `extra` degrees of freedom.
    z = (x[:, None] - charges) / mix.sigma[:, None]
    weight = torch.as_tensor(stats.multivariate_t(df=extra, shape=torch.eye(d)).pdf(z))
    target = (weight / weight.sum(1, keepdim=True)) @ charges
    found = mix.convert(target, x, given="target", wanted="velocity")

    root = extra**0.5
    place = torch.cat([x, root * mix.sigma], 1).requires_grad_()
    away = place[:, None] - torch.nn.functional.pad(charges, (0, 1))
    square = away.square().sum(2)
    power = d + extra - 2
    potential = -0.5 * square.log() if power == 0 else square ** (-power / 2) / power
    field = -torch.autograd.grad(potential.sum(), place)[0]
    slope = field[:, :d] / field[:, d:]
    assert_close(found, slope * root * mix.sigma_rate)
