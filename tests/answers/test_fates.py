"""Fates against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from cellflow import SF2M
from cellflow.answers import fates_by_flow, fates_by_plans, origins_by_plans
from cellflow.dynamics import Dynamics
from cellflow.fits import Ensemble, Fit
from cellflow.plans import Transitions
from cellflow.plans.forms import PairPlan
from cellflow.timecourse import Snapshot, TimeCourse
from known_fits import SIGMA, SPAN, course, fit


def normal(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])


def agrees(found, expected: np.ndarray) -> None:
    """Within five standard errors, which are those of the futures drawn."""
    right = found.groups.index("right")
    p, error = (v[:, right].numpy() for v in (found.probabilities, found.sampling_error))
    assert (np.abs(p - expected) < 5 * error + 2e-3).all()
    assert (error < 0.02).all()


def test_fates_of_an_ornstein_uhlenbeck_process() -> None:
    """From x, the side at the end is that of a normal law of mean x exp(-θt)."""
    theta, ou = 0.7, fit(lambda t, x: -0.7 * x)
    x = ou.course.snapshots[0].x
    found = fates_by_flow(ou, *ou.course.snapshots, n_futures=2000)
    deviation = SIGMA * math.sqrt((1 - math.exp(-2 * theta * SPAN)) / (2 * theta))
    agrees(found, normal(x[:, 0].numpy() * math.exp(-theta * SPAN) / deviation))
    rows = found.probabilities.sum(1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert found.member_error is None
    again = fates_by_flow(ou, *ou.course.snapshots, n_futures=2000)
    assert torch.equal(again.probabilities, found.probabilities)


def test_errors_cover_the_truth() -> None:
    """Of 400 independent estimates with 50 futures each, 95 % lie within 1.96 standard errors."""
    brownian = fit(lambda t, x: torch.zeros_like(x))
    start = Snapshot(torch.full((400, 1), 0.3, dtype=torch.float64), 0.0)
    found = fates_by_flow(brownian, start, brownian.course.snapshots[1], n_futures=50)
    off = (found.probabilities[:, 1] - float(normal([0.3 / (SIGMA * math.sqrt(SPAN))])[0])).abs()
    inside = float((off < 1.96 * found.sampling_error[:, 1]).double().mean())
    assert 0.90 < inside < 0.98


@pytest.mark.parametrize("growth", [True, False])
def test_growth_turns_fates_towards_who_grows(growth: bool) -> None:
    """Brownian motion that grows at rate c x: weights shift the end by c σ² t² / 2 (Girsanov)."""
    c = 0.6
    grown = fit(lambda t, x: torch.zeros_like(x), growth=lambda t, x: c * x[:, 0])
    x = grown.course.snapshots[0].x
    found = fates_by_flow(grown, *grown.course.snapshots, n_futures=4000, growth=growth)
    shift = c * SIGMA**2 * SPAN**2 / 2 if growth else 0.0
    agrees(found, normal((x[:, 0].numpy() + shift) / (SIGMA * math.sqrt(SPAN))))


def test_members_that_disagree_say_so() -> None:
    """One member goes left, one right: half and half, without an error of sampling."""
    left, right = (fit(lambda t, x, v=v: torch.full_like(x, v), sigma=0.0) for v in (-3.0, 3.0))
    found = fates_by_flow(Ensemble((left, right), (0, 1)), *left.course.snapshots)
    half = torch.full((5, 2), 0.5, dtype=torch.float64)
    torch.testing.assert_close(found.probabilities, half)
    torch.testing.assert_close(found.member_error, torch.full_like(half, 0.5**0.5))
    assert float(found.sampling_error.abs().max()) == 0
    torch.testing.assert_close(found.entropy, torch.ones(5, dtype=torch.float64))


def plan(matrix: torch.Tensor, growth: tuple[list, list] | None = None) -> PairPlan:
    rows, cols = matrix.nonzero(as_tuple=True)
    s, t = (torch.tensor(g, dtype=torch.float64) for g in growth) if growth else (None, None)
    return PairPlan(
        rows=rows, cols=cols, mass=matrix[rows, cols], size=tuple(matrix.shape),
        cost=0.0, source_growth=s, target_growth=t,
    )  # fmt: skip


@pytest.mark.parametrize("growth", [True, False])
def test_fates_by_plans_are_products_of_matrices(growth: bool) -> None:
    first = torch.tensor([[0.3, 0.1], [0.2, 0.4]], dtype=torch.float64)
    second = torch.tensor([[0.1, 0.3, 0.1], [0.2, 0.0, 0.3]], dtype=torch.float64)
    s, t = [0.0, 0.5, -0.2], [0.1, -0.3]
    known = ([0.4, -0.1], s[:2]), (t, s)
    chain = Transitions((0.0, 1.0, 2.0), (plan(first, known[0]), plan(second, known[1])))
    steps = []
    for matrix, (a, b) in zip((first, second), known, strict=True):
        ends = matrix.numpy() * np.exp(np.add.outer(a, b)) if growth else matrix.numpy()
        steps.append(ends / matrix.numpy().sum(1, keepdims=True))
    product = steps[0] @ steps[1]
    expected = np.stack([product[:, [0, 2]].sum(1), product[:, 1]], 1)
    found = fates_by_plans(chain, ["b", "c", "b"], start=0.0, end=2.0, growth=growth)
    assert found.groups == ("b", "c")
    np.testing.assert_allclose(found.probabilities, expected / expected.sum(1, keepdims=True))


def test_ancestors_follow_the_reversed_process() -> None:
    """Brownian motion from N(0, 1): the start of a path is normal, given where it ends.

    Its velocity is minus half of σ² times the score of N(0, 1 + σ² t).
    """
    wide = lambda t: 1 + SIGMA**2 * t  # noqa: E731
    known = Dynamics(
        lambda t, x: 0.5 * SIGMA**2 * x / wide(t), score=lambda t, x: -x / wide(t), sigma=SIGMA
    )
    line, places = course().snapshots[1], torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    snapshots = Snapshot(line.x, 0.0, labels=line.labels), Snapshot(places, SPAN)
    networks = nn.ModuleDict({"velocity": nn.Linear(1, 1).double()})
    back = Fit(known, SF2M(SIGMA), TimeCourse(snapshots), networks)
    found = fates_by_flow(back, snapshots[1], snapshots[0], n_futures=4000)
    mean = places[:, 0].numpy() / wide(SPAN)
    agrees(found, normal(mean / math.sqrt(SIGMA**2 * SPAN / wide(SPAN))))


def test_origins_by_plans_are_products_of_matrices() -> None:
    first = torch.tensor([[0.3, 0.1], [0.2, 0.4]], dtype=torch.float64)
    second = torch.tensor([[0.1, 0.4, 0.0], [0.2, 0.0, 0.3]], dtype=torch.float64)
    chain = Transitions((0.0, 1.0, 2.0), (plan(first), plan(second)))
    back = [m.numpy() / m.numpy().sum(0) for m in (first, second)]
    found = origins_by_plans(chain, ["a", "b"], start=0.0, end=2.0)
    np.testing.assert_allclose(found.probabilities, (back[0] @ back[1]).T)


def test_a_fate_needs_labelled_cells_at_another_time() -> None:
    one = fit(lambda t, x: torch.zeros_like(x))
    start, ends = one.course.snapshots
    with pytest.raises(ValueError, match="`ends`: got cells without labels, expected labelled"):
        fates_by_flow(one, start, Snapshot(ends.x, SPAN))
    with pytest.raises(ValueError, match="`ends`: got cells at time 2, .* another time than 2"):
        fates_by_flow(one, ends, ends)
