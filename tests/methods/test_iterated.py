"""Iterated fits against the exact iteration on normal laws, and what happens between rounds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import ICFM, SF2M, Dynamics, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.couplings import Given
from cellflow.methods import Iterated
from cellflow.methods.iterated import InducedPairs
from cellflow.networks import MLPConfig
from cellflow.toys.exact import Gaussian, matrix_root
from cellflow.training.trainer import Training

F64 = torch.float64
QUICK = {
    "net": MLPConfig(32, 2),
    "batching": Batching(256, 64, reuse=4),
    "training": Training(learning_rate=1e-2, validation=0.0),
}


def cells(n: int, law: Gaussian, seed: int) -> torch.Tensor:
    """Cells whose mean and covariance are those of the law, not a sample's."""
    x = law.sample(n, generator=seed)
    x = x - x.mean(0)
    return law.mean + x @ torch.linalg.inv(matrix_root(x.T @ x / n)) @ matrix_root(law.cov)


def cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)


def induced_cross(
    coupled: torch.Tensor, source: Gaussian, target: Gaussian, *, sigma: float, steps: int = 100
) -> torch.Tensor:
    """Cross-covariance that the Markovian projection of bridges between normal pairs induces.

    The state at s is normal and jointly so with the ends, hence the drift is the linear
    regression of X_1 - X_0 on it, less sigma² s of its precision: X_1 is a linear map of X_0,
    plus noise.
    """
    eye = torch.eye(source.dim, dtype=F64)

    def slope(s: float) -> torch.Tensor:
        ends = (1 - s) ** 2 * source.cov + s**2 * target.cov
        cov = ends + s * (1 - s) * (coupled + coupled.T + sigma**2 * eye)
        with_end = s * target.cov + (1 - s) * coupled.T
        with_start = (1 - s) * source.cov + s * coupled
        return (with_end - with_start - sigma**2 * s * eye) @ torch.linalg.inv(cov)

    carry, h = eye, 1 / steps
    for i in range(steps):
        a, b, c = slope(i * h), slope((i + 0.5) * h), slope((i + 1) * h)
        k1 = a @ carry
        k2 = b @ (carry + h / 2 * k1)
        k3 = b @ (carry + h / 2 * k2)
        k4 = c @ (carry + h * k3)
        carry = carry + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return source.cov @ carry.T


def first_and_last(method: Iterated, course: TimeCourse, steps: int) -> tuple[cf.Fit, cf.Fit]:
    """What the base says after its share of the steps, and what is said in the end."""
    first = method.base.fit(course, steps=method.budgets(steps)[0], progress=False)
    return first, method.fit(course, steps=steps, progress=False)


def ends(fit: cf.Fit, x: torch.Tensor, *, backward: bool = False) -> torch.Tensor:
    times = sorted(fit.course.times, reverse=backward)
    return fit.simulate(x, times, solver="sra1", generator=1).final


# --- ground truth ----------------------------------------------------------------------------


def test_exact_iteration_converges_to_the_bridge() -> None:
    """What the fits below are compared with is itself right: its fixed point is the bridge."""
    source = Gaussian([0.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])
    target = Gaussian([2.0, 1.0], [[0.4, -0.2], [-0.2, 1.2]])
    bridge = toys.GaussianBridge(source, target, sigma=1.0).cross_cov
    # The integration's own error, of fourth order in 100 steps.
    assert_close(induced_cross(bridge, source, target, sigma=1.0), bridge, atol=1e-8, rtol=0)
    coupled = torch.zeros(2, 2, dtype=F64)
    for _ in range(15):
        coupled = induced_cross(coupled, source, target, sigma=1.0)
    assert_close(coupled, bridge, atol=1e-4, rtol=0)


@pytest.mark.parametrize("start", ["independent", "worst"])
def test_iterated_follows_the_exact_iteration_to_the_bridge(start: str) -> None:
    """From independent pairs, and from the plan of the greatest cost, which reverses the line.

    The covariance of the ends is -1.41 (worst) or 0, then .493 or .895 after one pass, .954 or
    .991, and .996 or .999 after two rounds; that of the bridge is 1.
    """
    source, target = Gaussian([0.0], [[1.0]]), Gaussian([1.0], [[2.0]])
    n, sigma = 1000, math.sqrt(0.5)
    x0, x1 = cells(n, source, 0).sort(0).values, cells(n, target, 1).sort(0).values
    course = TimeCourse.from_arrays([x0, x1], [3.0, 5.0])
    base, exact = SF2M(sigma, coupling="independent", **QUICK), torch.zeros(1, 1, dtype=F64)
    if start == "worst":
        base = replace(base, coupling=Given(torch.eye(n).flip(0)))
        exact = -torch.sqrt(source.cov @ target.cov)
    bridge = toys.GaussianBridge(source, target, span=2.0, sigma=sigma).cross_cov
    y0 = cells(20_000, source, 2)
    first, last = first_and_last(Iterated(base, rounds=2), course, 1200)
    y1, z1 = ends(first, y0), ends(last, y0)
    # Standard error .007 (the noise that reaches the end has variance one); the network's own
    # error is measured at .005 to .05 in the first fit, whose fields are the steeper ones.
    exact = induced_cross(exact, source, target, sigma=1.0)
    assert_close(cross(y0, y1), exact, atol=0.08, rtol=0)
    assert float((cross(y0, y1) - bridge).abs()) > 0.07
    assert_close(cross(y0, z1), bridge, atol=0.05, rtol=0)
    # Marginals stay: standard errors .01 and .02. The last pairs went backward, so that it is the
    # sources that have drifted, by .08 to .10.
    assert_close(z1.mean(0), target.mean, atol=0.05, rtol=0)
    assert_close(z1.var(0), target.cov[0], atol=0.15, rtol=0)
    back = ends(last, cells(20_000, target, 3), backward=True)
    assert_close(back.mean(0), source.mean, atol=0.05, rtol=0)
    assert_close(back.var(0), source.cov[0], atol=0.15, rtol=0)


def test_iterated_removes_the_bias_of_small_blocks() -> None:
    """Ten dimensions in blocks of 16: plans correlate pairs by .40, one pass by .596, not .618."""
    d, n = 10, 2000
    eye = torch.eye(d, dtype=F64)
    source, target = Gaussian(torch.zeros(d), eye), Gaussian(torch.ones(d), eye)
    course = TimeCourse.from_arrays([cells(n, source, 0), cells(n, target, 1)])
    settings = Training(learning_rate=5e-3, validation=0.0)
    base = SF2M(1.0, net=MLPConfig(64, 2), batching=Batching(256, 16), training=settings)
    bridge = float(toys.GaussianBridge(source, target).cross_cov[0, 0])
    y0 = cells(10_000, source, 2)
    method = Iterated(base, rounds=2)
    first, last = (
        float(cross(y0, ends(fit, y0)).diagonal().mean())
        for fit in first_and_last(method, course, 1200)
    )
    # Standard error .003, since ten dimensions are averaged; the exact bias of one pass is .022.
    assert first < bridge - 0.01
    assert abs(last - bridge) < 0.013


def test_iterated_straight_paths_become_straighter() -> None:
    """N(0, 1) to N(2, 1) by independent pairs costs 6 - pi/2 in motion, by transport 4."""
    source, target = Gaussian([0.0], [[1.0]]), Gaussian([2.0], [[1.0]])
    course = TimeCourse.from_arrays([cells(2000, source, 0), cells(2000, target, 1)], [0.0, 2.0])
    x, times = course.snapshots[0].x, torch.linspace(0, 2, 41)
    energies = []
    for fit in first_and_last(Iterated(ICFM(0.0, **QUICK), rounds=1), course, 800):
        out = fit.simulate(x, times)
        speed = out.x.diff(dim=0) / 0.05
        energies.append(2.0 * float(speed.square().mean(1).sum() * 0.05))
        # The network's own error.
        assert_close(out.final.mean(0), target.mean, atol=0.05, rtol=0)
        assert_close(out.final.var(0), target.cov[0], atol=0.1, rtol=0)
    assert energies[0] == pytest.approx(6 - math.pi / 2, abs=0.12)
    assert energies[1] == pytest.approx(4.0, abs=0.12)


# --- pairs -----------------------------------------------------------------------------------


def drifting(sigma: float = 0.0) -> Dynamics:
    """Every cell moves by 3 a day; with noise the score is made to leave that drift alone."""
    score = (lambda t, x: torch.zeros_like(x)) if sigma else None
    return Dynamics(lambda t, x: torch.full_like(x, 3.0), score, sigma=sigma)


def uneven() -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [10.0 * k + torch.randn(20 + 9 * k, 2, generator=g, dtype=F64) for k in range(3)]
    return TimeCourse.from_arrays(xs, [0.0, 1.0, 3.0])


@pytest.mark.parametrize("backward", [False, True])
def test_induced_pairs_are_observed_cells_and_their_ends(backward: bool) -> None:
    course, size = uneven(), 64
    batch = InducedPairs(drifting(), course, Batching(size), backward=backward).batch(0)
    assert_close(batch.x1 - batch.x0, 3.0 * batch.span.expand(-1, 2))
    for j, (source, target) in enumerate(course.steps):
        rows = slice(j * size, (j + 1) * size)
        assert set(batch.t0[rows, 0].tolist()) == {source.time}
        assert set(batch.t1[rows, 0].tolist()) == {target.time}
        true, drawn = (target, batch.x1[rows]) if backward else (source, batch.x0[rows])
        counts = (true.x[:, None] == drawn[None]).all(-1).sum(1)
        assert int(counts.sum()) == size  # each is an observed cell, as often as its share
        assert set(counts.tolist()) <= {size // len(true), -(-size // len(true))}


def test_induced_pairs_have_the_noise_of_the_span() -> None:
    course = TimeCourse.from_arrays([torch.zeros(5000, 1, dtype=F64)] * 2, [0.0, 4.0])
    batch = InducedPairs(drifting(0.5), course, Batching(5000)).batch(0)
    # Variance sigma² span = 1, of 5,000 pairs: four standard errors.
    assert float((batch.x1 - batch.x0).var()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 5000))


def test_induced_pairs_follow_the_mass() -> None:
    x, mass = torch.arange(4.0, dtype=F64)[:, None], torch.tensor([1.0, 2.0, 4.0, 1.0])
    course = TimeCourse.from_arrays([x, x + 3.0], masses=[mass, mass])
    batch = InducedPairs(drifting(), course, Batching(80)).batch(0)
    assert torch.bincount(batch.x0[:, 0].long()).tolist() == [10, 20, 40, 10]


def test_induced_batch_is_a_pure_function_of_its_number() -> None:
    def source(seed: int = 0) -> InducedPairs:
        return InducedPairs(drifting(0.5), uneven(), Batching(16, reuse=2), seed)

    ahead, there = source(), source()
    inorder = [ahead.batch(k) for k in range(14)]  # three steps an epoch, six a pool
    for k in (13, 2, 7, 0):
        assert torch.equal(there.batch(k).x1, inorder[k].x1)
    assert not torch.equal(source(1).batch(0).x1, inorder[0].x1)
    pools = [{tuple(x) for k in ks for x in inorder[k].x1.tolist()} for ks in (range(3), (6, 7, 8))]
    assert not pools[0] & pools[1]  # the next pool has noise of its own
