"""Disagreement of members whose velocities are known."""

from __future__ import annotations

import math

import anndata
import numpy as np
import pytest
import torch
from torch import nn

import cellflow as cf
from cellflow import tl
from cellflow.answers.uncertainty import disagreement
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.timecourse import TimeCourse

TIMES, SPEEDS = (0.0, 2.0, 3.0), (1.0, 2.0, 3.0)


def ensemble() -> Ensemble:
    """Members that move all cells at speeds of their own."""
    rng = torch.Generator().manual_seed(0)
    xs = [torch.randn(n, 2, generator=rng, dtype=torch.float64) for n in (30, 40, 20)]
    course, networks = TimeCourse.from_arrays(xs, TIMES), nn.ModuleDict()
    networks["velocity"] = nn.Linear(1, 1).double()
    fits = []
    for speed in SPEEDS:
        ahead = torch.tensor([speed, 0.0], dtype=torch.float64)
        dynamics = Dynamics(lambda t, x, v=ahead: v.expand_as(x))
        fits.append(Fit(dynamics, cf.OTCFM(), course, networks))
    return Ensemble(tuple(fits), (0, 1, 2))


@pytest.mark.parametrize(("time", "before", "after"), [(0.5, 0.0, 2.0), (2.4, 2.0, 3.0)])
def test_spread_is_that_of_speeds_times_the_way_from_both_sides(time, before, after) -> None:
    found = disagreement(ensemble(), time)
    s = (time - before) / (after - before)
    way = math.sqrt((1 - s) * (time - before) ** 2 + s * (after - time) ** 2)
    assert found.spread == pytest.approx(np.std(SPEEDS, ddof=1) * way)
    assert found.moved == pytest.approx(np.mean(SPEEDS) * way)


def test_observed_times_are_known_and_others_are_refused() -> None:
    assert disagreement(ensemble(), 2.0).spread == 0
    for time in (-0.1, 3.0):
        with pytest.raises(ValueError, match="`time`: got .*, expected a time from 0 to 3"):
            disagreement(ensemble(), time)


def test_the_spread_is_largest_in_the_middle_of_the_longest_gap() -> None:
    adata = anndata.AnnData(np.zeros((1, 1)))
    table = tl.uncertainty(adata, ensemble(), per_interval=3)
    assert table["time"].tolist() == [0.5, 1.0, 1.5, 2.25, 2.5, 2.75]
    assert table["time"][table["spread"].argmax()] == 1.0
    np.testing.assert_allclose(table["relative"], np.std(SPEEDS, ddof=1) / np.mean(SPEEDS))
    said = "`fit`: got Fit, expected an Ensemble. Fit with members=8."
    with pytest.raises(TypeError, match=said):
        tl.uncertainty(adata, ensemble().members[0])
