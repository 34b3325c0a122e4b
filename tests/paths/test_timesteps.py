"""Densities of time equal their closed forms."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from cellflow.paths import TIMESTEPS, BrownianBridge, Pairs, Straight
from cellflow.paths.timesteps import logit_normal


def mode_cdf(s: np.ndarray) -> np.ndarray:
    """Esser et al. 2024, eq. 20: f falls, so that the share below s is 1 - f^{-1}(s)."""

    def f(u: float) -> float:
        return 1 - u - 1.29 * (np.cos(pi / 2 * u) ** 2 - 1 + u)

    return np.array([1 - optimize.brentq(lambda u, t=t: f(u) - t, 0, 1) for t in s])


CDFS = {
    "uniform": lambda s: s,
    "logit_normal": lambda s: special.ndtr(special.logit(s)),
    "mode": mode_cdf,
    "cosmap": lambda s: 2 / pi * np.arctan(2 * s - 1) + 0.5,  # the integral of eq. 21
}


def pairs(n: int) -> Pairs:
    x = torch.zeros(n, 1)
    return Pairs(x, x + 1, torch.zeros(n, 1), torch.ones(n, 1))


@pytest.mark.parametrize("name", TIMESTEPS)
def test_times_follow_their_density(name) -> None:
    point = Straight().draw(pairs(4000), torch.Generator().manual_seed(0), times=TIMESTEPS[name])
    s = point.t.double().numpy()
    assert s.min() >= 0
    assert s.max() <= 1
    assert stats.kstest(s, CDFS[name]).pvalue > 1e-3
    others = [cdf for other, cdf in CDFS.items() if other != name]
    assert all(stats.kstest(s, cdf).pvalue < 1e-3 for cdf in others)


def test_location_and_scale_of_the_logit() -> None:
    u = torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logit = special.logit(logit_normal(u, location=0.5, scale=0.8).numpy())
    assert stats.kstest(logit, stats.norm(0.5, 0.8).cdf).pvalue > 1e-3


def test_ends_of_the_uniform_numbers_stay_inside() -> None:
    ends = torch.tensor([0.0, 1 - 2**-24])
    for times in TIMESTEPS.values():
        assert ((times(ends) >= 0) & (times(ends) <= 1)).all()


def test_each_pair_is_met_several_times() -> None:
    p, path = pairs(5), BrownianBridge()
    point = path.draw(p, torch.Generator().manual_seed(2), per_pair=3)
    assert len(point.t) == 15
    assert len(point.t.unique()) == 15
    once = path.draw(p.repeated(3), torch.Generator().manual_seed(2))
    assert torch.equal(point.x, once.x)
    half = path.draw(p, torch.Generator().manual_seed(2), part=(1, 2), per_pair=3)
    assert torch.equal(half.x, point.x[1::2])
