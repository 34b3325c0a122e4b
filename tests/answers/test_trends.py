"""Trends of curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import make_smoothing_spline

from cellflow.answers.trends import PENALTIES, trends

TIMES = [0.0, 1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 10.0]


def cells(curve, n: int, genes: int, *, sd: float, seed: int = 0) -> list[torch.Tensor]:
    """Independent noise of deviation `sd` around a curve: each gene is a replicate."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(curve(t) + rng.normal(0, sd, (n, genes))) for t in TIMES]


def wave(t):
    return 1 + torch.as_tensor(2 * np.pi * t / 12).sin().numpy()


def test_bands_cover_a_known_curve() -> None:
    """Where cells are, curves are nearer to it than the means of cells, of known variance."""
    found = trends(cells(wave, 80, 300, sd=0.7), TIMES)
    truth = torch.from_numpy(wave(found.times))[:, None]
    inside = ((found.low <= truth) & (truth <= found.high)).double()
    assert 0.91 < float(inside.mean()) < 0.98
    assert float(inside.mean(1).min()) > 0.85
    there = [k for k, t in enumerate(found.times.tolist()) if round(t, 9) in TIMES]
    assert len(there) == len(TIMES)
    assert float((found.mean - truth)[there].square().mean()) < 0.97 * 0.7**2 / 80
    assert found.times[[0, -1]].tolist() == [0.0, 10.0]


def test_more_is_known_where_more_cells_are() -> None:
    few, many = (trends(cells(wave, n, 50, sd=0.7), TIMES) for n in (50, 800))
    ratio = (few.high - few.low).mean() / (many.high - many.low).mean()
    assert 3 < float(ratio) < 5  # root of 16


def test_curves_are_smoothing_splines() -> None:
    """With a knot at each time, those of scipy for one of the penalties."""
    times = np.linspace(0, 1, 12)
    rng = np.random.default_rng(1)
    y = [torch.from_numpy(rng.normal(np.sin(4 * t), 0.5, (20, 1))) for t in times]
    found = trends(y, times.tolist(), n_splines=14, n_boot=2)
    means = np.array([float(v.mean()) for v in y])
    off = [
        np.abs(make_smoothing_spline(times, means, lam=lam)(found.times) - found.mean[:, 0].numpy())
        for lam in _penalties_in_units_of_scipy(times)
    ]
    assert min(float(v.max()) for v in off) < 1e-6


def _penalties_in_units_of_scipy(times: np.ndarray) -> np.ndarray:
    """Ours weigh means by shares of one, and splines as the data."""
    from cellflow.answers.trends import _Splines

    splines = _Splines.through(times, len(times) + 2)
    data = np.trace(splines.basis(times).T @ splines.basis(times))
    return PENALTIES * data / np.trace(splines.roughness())


def test_a_line_stays_a_line() -> None:
    found = trends(cells(lambda t: 2 - 0.3 * t, 10, 2, sd=0.0), TIMES, n_boot=5)
    for values in (found.mean, found.low, found.high):
        torch.testing.assert_close(values[:, 0], 2 - 0.3 * found.times, rtol=0, atol=1e-6)


def test_neither_units_nor_other_genes_matter() -> None:
    y = cells(wave, 30, 4, sd=0.5)
    here = trends(y, TIMES, n_boot=20)
    there = trends([v * 1000 + 5 for v in y], [24 * t - 3 for t in TIMES], n_boot=20)
    for name in ("mean", "low", "high"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name) * 1000 + 5)
    torch.testing.assert_close(there.times, here.times * 24 - 3)
    alone = trends([v[:, 2:3] for v in y], TIMES, n_boot=20)
    torch.testing.assert_close(alone.high, here.high[:, 2:3])


def test_cells_without_weight_do_not_count() -> None:
    """Nor does a time whose cells have none."""
    y = cells(wave, 40, 2, sd=0.5)
    weights = [torch.tensor([0.0, 0.7]).repeat(20) for _ in TIMES]
    weights[2] = torch.zeros(40)
    weights[1] = weights[1].double() * 1e-200  # relative weights are what counts
    found = trends(y, TIMES, weights, n_boot=20)
    times = [t for k, t in enumerate(TIMES) if k != 2]
    half = trends([v[1::2] for k, v in enumerate(y) if k != 2], times, n_boot=20)
    for name in ("times", "mean", "low", "high"):
        torch.testing.assert_close(getattr(found, name), getattr(half, name))


def test_weights_tell_two_curves_apart() -> None:
    """Of cells that are one kind or the other, and known by a probability of 0.9 or 0.1."""
    rng = np.random.default_rng(3)
    y, weights = [], []
    for t in TIMES:
        p = rng.choice([0.1, 0.9], 4000)
        first = rng.random(4000) < p
        y.append(
            torch.from_numpy(np.where(first, wave(t), 3.0) + rng.normal(0, 0.3, 4000))[:, None]
        )
        weights.append(torch.from_numpy(p))
    found = trends(y, TIMES, weights, n_boot=100)
    share = (0.9**2 + 0.1**2) / (0.9 + 0.1)  # of the first kind, among cells so weighted
    truth = torch.from_numpy(share * wave(found.times) + (1 - share) * 3.0)[:, None]
    torch.testing.assert_close(found.mean, truth, rtol=0, atol=0.08)
    assert float(((found.low <= truth) & (truth <= found.high)).double().mean()) > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_splines": 3}, "`n_splines`: got 3"),
        ({"n_boot": 1}, "`n_boot`: got 1"),
        ({"times": TIMES[::-1]}, "increasing times"),
        ({"weights": [torch.ones(5)] + [torch.zeros(5)] * 7}, "got cells at 1 time"),
        ({"weights": [torch.full((5,), torch.nan)] * 8}, "`weights`: got NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message) -> None:
    given = {"times": TIMES, "weights": None, "n_boot": 5} | change
    times, weights = given.pop("times"), given.pop("weights")
    with pytest.raises(ValueError, match=message):
        trends(cells(wave, 5, 1, sd=0.1), times, weights, **given)
