"""Drivers against scipy, and gradients against finite differences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from torch import nn

import cellflow as cf
from cellflow.answers import correlations, fate_gradient
from cellflow.answers.labels import indicators, shares_near
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.networks import MLPConfig
from cellflow.timecourse import Snapshot, TimeCourse

COLUMNS = ("correlation", "low", "high", "p_value", "fdr")


def counts(n: int = 300, genes: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Sparse expression, the first genes of which go with a probability."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, n)
    rate = np.exp(np.linspace(-2, 2, 10)[None] * p[:, None])
    x = np.log1p(rng.poisson(np.concatenate([rate, np.ones((n, genes - 10))], 1)))
    return x, p


def blocks(x, p: np.ndarray, cuts: list[int]):
    edges = [0, *cuts, len(p)]
    return [(x[a:b], torch.from_numpy(p[a:b])) for a, b in pairwise(edges)]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csr_array])
@pytest.mark.parametrize("cuts", [[], [0, 7, 7, 100, 299]])
def test_correlations_are_those_of_scipy(form, cuts) -> None:
    x, p = counts()
    found = correlations(blocks(form(x), p, cuts))
    tests = [stats.pearsonr(x[:, k], p) for k in range(x.shape[1])]
    ends = [test.confidence_interval(0.95) for test in tests]
    p_values = np.array([test.pvalue for test in tests])
    expected = {
        "correlation": [test.statistic for test in tests],
        "low": [end.low for end in ends],
        "high": [end.high for end in ends],
        "p_value": p_values,
        "fdr": stats.false_discovery_control(p_values),
    }
    assert found.n == len(p)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, atol=1e-12)


def test_large_means_lose_no_digits() -> None:
    x, p = counts()
    for far in (x + 1e6, sparse.csr_matrix(x + 1e6)):
        found = correlations(blocks(far, p, [50, 200]))
        expected = [stats.pearsonr(column, p).statistic for column in x.T]
        np.testing.assert_allclose(found.correlation, expected, atol=1e-8)


def test_constant_genes_are_unknown_and_not_counted() -> None:
    x, p = counts()
    more = np.concatenate([x, np.zeros((len(x), 1)), np.full((len(x), 1), 0.1)], 1)
    for form in (np.asarray, sparse.csr_matrix):
        found, without = (correlations(blocks(form(v), p, [30])) for v in (more, x))
        for name in COLUMNS:
            values = getattr(found, name)
            assert values[-2:].isnan().all()
            torch.testing.assert_close(values[:-2], getattr(without, name))


def test_null_genes_have_uniform_p_values() -> None:
    rng = np.random.default_rng(5)
    x, p = rng.normal(size=(200, 2000)), rng.beta(0.5, 0.5, 200)
    found = correlations(blocks(x, p, [90]))
    assert stats.kstest(found.p_value.numpy(), "uniform").pvalue > 0.01
    assert float((found.fdr < 0.05).double().mean()) < 0.005
    covered = (found.low < 0) & (found.high > 0)
    assert 0.93 < float(covered.double().mean()) < 0.97


def test_what_has_no_correlation_is_refused() -> None:
    x, p = counts()
    with pytest.raises(ValueError, match="`cells`: got 3 cells"):
        correlations(blocks(x[:3], p[:3], []))
    with pytest.raises(ValueError, match="`fate`: got the same probability, 0.1, in all 300"):
        correlations(blocks(x, np.full(300, 0.1), [10]))


# --- gradients --------------------------------------------------------------------------------


def ends(n: int = 60, dim: int = 2, time: float = 2.0) -> Snapshot:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, dim, generator=rng, dtype=torch.float64)
    return Snapshot(x, time, labels=["up" if v > 0 else "down" for v in x[:, 0].tolist()])


def known(velocity, *, dim: int = 2, breaks: tuple[float, ...] = (), growth=None) -> Fit:
    dynamics = Dynamics(velocity, growth=growth, breaks=breaks)
    start = Snapshot(torch.zeros(3, dim, dtype=torch.float64), 0.0)
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    return Fit(dynamics, cf.OTCFM(), TimeCourse((start, ends(dim=dim))), networks)


def log_fates(
    fit: Fit, x: torch.Tensor, end: Snapshot, group: str, neighbours: int
) -> torch.Tensor:
    """By the same parts as fates are: simulation, and neighbours without the chain rule."""
    prep = fit.preprocessing
    final = fit.simulate(x, [0.0, end.time]).final
    places, cells = (v if prep is None else prep.apply(v) for v in (final, end.x))
    return shares_near(places, cells, indicators(end.labels, [group]), neighbours=neighbours)[
        :, 0
    ].log()


def differences(fit: Fit, x: torch.Tensor, end: Snapshot, group: str, neighbours: int):
    out, h = torch.empty_like(x), 1e-5
    for k in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, k] = h
        after, before = (log_fates(fit, x + s, end, group, neighbours) for s in (step, -step))
        out[:, k] = (after - before) / (2 * h)
    return out


def trained(clock: str) -> Fit:
    """A small network, in float64 so that differences are exact."""
    rng = torch.Generator().manual_seed(0)
    first = Snapshot(torch.randn(50, 3, generator=rng) * 0.5, 0.0)
    middle = Snapshot(torch.randn(50, 3, generator=rng) * 0.8, 0.7)
    last = ends(dim=3)
    course = TimeCourse((first, middle, replace(last, x=last.x.float(), mass=last.mass.float())))
    fit = replace(cf.OTCFM(net=MLPConfig(16, 2)), clock=clock).fit(
        course, steps=100, progress=False
    )
    fit.networks.double()
    return fit


@pytest.mark.parametrize("neighbours", [15, 60])
def test_gradients_of_trained_flows_are_finite_differences(neighbours) -> None:
    """Also on a clock."""
    fit = trained("distance")
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(20, 3, generator=rng, dtype=torch.float64) * 0.5
    end = ends(dim=3)
    found = fate_gradient(fit, Snapshot(x, 0.0), end, group="up", neighbours=neighbours)
    expected = differences(fit, x, end, "up", neighbours)
    ok = expected.isfinite().all(1)
    assert ok.sum() > 10
    torch.testing.assert_close(found.gradient[ok], expected[ok], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.probability.log(), log_fates(fit, x, end, "up", neighbours), rtol=1e-9, atol=1e-12
    )


def test_gradients_go_through_preprocessing_breaks_and_growth() -> None:
    def velocity(t, x):
        return torch.where(t < 1, x.flip(1), -0.5 * x) + 0.1 * x**2

    fit = known(velocity, breaks=(1.0,), growth=lambda t, x: x[:, 0])
    prep = cf.preprocessing.fit_preprocessing(ends().x, n_components=2, whiten=True)
    fit = replace(fit, preprocessing=prep)
    x = torch.linspace(-0.4, 0.4, 12, dtype=torch.float64).view(6, 2)
    found = fate_gradient(fit, Snapshot(x, 0.0), ends(), group="up", neighbours=60)
    expected = differences(fit, x, ends(), "up", 60)
    torch.testing.assert_close(found.gradient, expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_linear_flow_are_carried_back_by_it() -> None:
    """Along x exp(at), what is lost at the end is multiplied by exp(aT): the chain rule."""
    a, x = 0.3, torch.tensor([[0.1, 0.2], [-0.3, 0.1]], dtype=torch.float64)
    still, moving = known(lambda t, x: 0 * x), known(lambda t, x: a * x)
    there = fate_gradient(
        still, Snapshot(x * np.exp(2 * a), 0.0), ends(), group="up", neighbours=60
    )
    here = fate_gradient(moving, Snapshot(x, 0.0), ends(), group="up", neighbours=60)
    torch.testing.assert_close(here.gradient, there.gradient * np.exp(2 * a), rtol=1e-4, atol=1e-7)


def test_gradients_of_ensembles_are_those_of_their_mean() -> None:
    one, other = (known(lambda t, x, v=v: torch.full_like(x, v)) for v in (-0.2, 0.3))
    several = Ensemble((one, other), (0, 1))
    start = Snapshot(torch.tensor([[0.1, 0.2], [-0.3, 0.1]], dtype=torch.float64), 0.0)
    found = fate_gradient(several, start, ends(), group="up", neighbours=60)
    parts = [fate_gradient(fit, start, ends(), group="up", neighbours=60) for fit in (one, other)]
    p = torch.stack([part.probability for part in parts])
    slopes = torch.stack([part.gradient for part in parts]) * p[..., None]
    torch.testing.assert_close(found.probability, p.mean(0))
    torch.testing.assert_close(found.gradient, slopes.mean(0) / p.mean(0)[:, None])
    torch.testing.assert_close(found.members.mean(0), found.gradient)


def test_a_cell_amid_a_group_has_no_gradient_and_far_from_it_none_is_known() -> None:
    line = torch.linspace(-10, 10, 401, dtype=torch.float64)[:, None].repeat(1, 2)
    end = Snapshot(line, 2.0, labels=["up" if v > 0 else "down" for v in line[:, 0].tolist()])
    start = Snapshot(torch.tensor([[5.0, 5.0], [-5.0, -5.0]], dtype=torch.float64), 0.0)
    found = fate_gradient(known(lambda t, x: 0 * x), start, end, group="up")
    assert found.probability.tolist() == pytest.approx([1.0, 0.0])
    assert found.gradient[0].abs().max() < 1e-12
    assert found.gradient[1].isnan().all()
    with pytest.raises(ValueError, match="`group`: got 'gone', expected one of 'down', 'up'"):
        fate_gradient(known(lambda t, x: 0 * x), start, end, group="gone")
    with pytest.raises(ValueError, match="`ends`: got cells without labels"):
        fate_gradient(known(lambda t, x: 0 * x), start, Snapshot(line, 2.0), group="up")
