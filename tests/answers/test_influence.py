"""Influence of genes on each other, where the dynamics are known."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from cellflow import OTCFM, SF2M
from cellflow.answers import influence
from cellflow.clock import Clock
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.networks import MLPConfig
from cellflow.preprocessing import Preprocessing, fit_preprocessing
from cellflow.timecourse import TimeCourse

D, GENES = 3, 7


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def known(velocity, *, d: int = D, prep: Preprocessing | None = None, **parts) -> Fit:
    """Dynamics that are known, in model coordinates, as a fit of cells of `d` dimensions."""
    course = TimeCourse.from_arrays([normal(9, d), normal(9, d, seed=1)], (0.0, 2.0))
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    return Fit(Dynamics(velocity, **parts), OTCFM(), course, networks, prep)


def loadings(seed: int = 0) -> torch.Tensor:
    """Orthonormal components of genes, ``(GENES, D)``."""
    return torch.linalg.qr(normal(GENES, D, seed=seed))[0]


def test_linear_dynamics_have_their_matrix() -> None:
    matrix = normal(D, D)
    found = influence(known(lambda t, x: x @ matrix.T), 1.0, normal(50, D))
    torch.testing.assert_close(found.jacobian, matrix)
    torch.testing.assert_close(found.strength, matrix.abs())
    assert found.n == 50


def test_preprocessing_and_the_clock_are_undone() -> None:
    """Dynamics of genes ẋ = xAᵀ that are told in whitened components and another time."""
    cells, matrix, times = normal(200, D) * torch.tensor([1.0, 2.0, 5.0]), normal(D, D), (0.0, 2.0)
    prep = fit_preprocessing(cells, n_components=D, whiten=True)

    def velocity(t, z):
        return (prep.invert(z) - prep.mean) @ matrix.T @ prep.loadings / prep.scale / 3

    fit = replace(known(velocity, prep=prep), clock=Clock(times, (0.0, 6.0)))
    torch.testing.assert_close(influence(fit, 0.7, cells).jacobian, matrix)


def test_finite_differences_of_a_trained_fit_agree() -> None:
    course = TimeCourse.from_arrays([normal(60, D), normal(60, D, seed=1) + 2], (0.0, 2.0))
    fit = SF2M(net=MLPConfig(16, 2)).fit(course, steps=50, dtype=torch.float64, progress=False)
    x, step = normal(40, D, seed=2), 1e-5 * torch.eye(D, dtype=torch.float64)
    time = torch.linspace(0.1, 1.9, 40, dtype=torch.float64)
    v = fit.velocity
    each = torch.stack([(v(time, x + h) - v(time, x - h)) / 2e-5 for h in step], 2)
    found = influence(fit, time, x)
    torch.testing.assert_close(found.jacobian, each.mean(0), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.strength, each.abs().mean(0), rtol=1e-6, atol=1e-8)
    both = torch.tensor([0.3, 1.2], dtype=torch.float64)
    parts = [influence(fit, float(t), x[:1]).jacobian for t in both]
    mean = influence(fit, both, x[[0, 0]]).jacobian
    torch.testing.assert_close(mean, (parts[0] + parts[1]) / 2)


def test_genes_are_those_of_the_components_however_these_are_turned() -> None:
    components, turn = loadings(), torch.linalg.qr(normal(D, D, seed=3))[0]

    def velocity(t, x):
        return torch.tanh(x @ normal(D, D).T)

    cells = normal(30, D, seed=4)
    found = influence(known(velocity), 0.0, cells, loadings=components)
    direct = components @ influence(known(velocity), 0.0, cells).jacobian @ components.T
    torch.testing.assert_close(found.jacobian, direct)
    turned = known(lambda t, x: velocity(t, x @ turn.T) @ turn)
    again = influence(turned, 0.0, cells @ turn, loadings=components @ turn)
    torch.testing.assert_close(again.jacobian, found.jacobian)
    torch.testing.assert_close(again.strength, found.strength)
    rows = [5, 0]
    some = influence(known(velocity), 0.0, cells, loadings=components, rows=rows)
    torch.testing.assert_close(some.strength, found.strength[rows][:, rows])
    stretched = known(lambda t, x: velocity(t, x / 4) * 4)
    again = influence(stretched, 0.0, cells * 4, loadings=components * 4)
    torch.testing.assert_close(again.jacobian, found.jacobian)


@pytest.mark.filterwarnings("ignore:.*an extrapolation")
def test_blocks_do_not_matter(monkeypatch) -> None:
    fit, cells, time = known(lambda t, x: t[:, None] * x.sin()), normal(11, D), normal(11)
    whole = influence(fit, time, cells)
    monkeypatch.setattr(sys.modules["cellflow.answers.influence"], "BLOCK", 2 * D**2)
    torch.testing.assert_close(influence(fit, time, cells).strength, whole.strength)
    torch.testing.assert_close(whole.jacobian.diag(), (time[:, None] * cells.cos()).mean(0))


def test_the_drift_leaves_out_what_diffusion_does() -> None:
    """The flow of dX = XAᵀdt + σdW through N(0, S) has the matrix A + ½σ²S⁻¹."""
    matrix, sigma, half = normal(D, D), 0.7, normal(D, D, seed=1)
    inverse = half @ half.T

    def flow(t, x):
        return x @ (matrix + sigma**2 / 2 * inverse).T

    fit = known(flow, score=lambda t, x: -x @ inverse, sigma=sigma)
    torch.testing.assert_close(influence(fit, 0.0, normal(5, D), drift=True).jacobian, matrix)
    with pytest.raises(ValueError, match="`drift`: got 'otcfm', expected a method that learns a"):
        influence(known(flow), 0.0, normal(5, D), drift=True)


def test_members_are_kept_and_opposite_signs_are_strong() -> None:
    matrices = [normal(D, D, seed=k) for k in range(2)]
    fits = [known(lambda t, x, m=m: x @ m.T) for m in matrices]
    found = influence(Ensemble(tuple(fits), (0, 1)), 0.0, normal(5, D))
    torch.testing.assert_close(found.members, torch.stack(matrices))
    torch.testing.assert_close(found.jacobian, (matrices[0] + matrices[1]) / 2)
    cells = torch.cat([normal(5, D), -normal(5, D)])
    even = influence(known(lambda t, x: x.square() / 2), 0.0, cells)
    torch.testing.assert_close(even.jacobian, torch.zeros(D, D, dtype=torch.float64))
    torch.testing.assert_close(even.strength.diag(), cells.abs().mean(0))
    with pytest.raises(ValueError, match="`x`: got 0 cells"):
        influence(fits[0], 0.0, normal(0, D))
