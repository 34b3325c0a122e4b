"""Schrödinger bridges: plans, learned dynamics and limits of either against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import cellflow as cf
from cellflow import Snapshot, TimeCourse, toys
from cellflow.batches import Batching
from cellflow.couplings import Entropic, Exact, Independent
from cellflow.networks import MLPConfig
from cellflow.simulate import simulate
from cellflow.training.trainer import Training
from closed_forms import gaussian_displacement, linear_flow
from oracles import F64, Chain, Oracle, Z, distance, matched, relative_error

SIGMA = 0.8
SOURCE = toys.Gaussian([0.0, 1.0], [[1.0, 0.6], [0.6, 0.8]])
TARGET = toys.Gaussian([2.0, -1.0], [[0.5, -0.3], [-0.3, 0.9]])
#: A spiral with noise, whose matrix is not normal: covariances at different times do not commute.
MATRIX = torch.tensor([[-0.6, 1.5], [-0.9, -0.2]], dtype=F64)
SHIFT, DIFFUSION, TIMES = torch.tensor([0.5, -0.5], dtype=F64), 0.7, (0.0, 0.5, 2.5)


# --- static plans ----------------------------------------------------------------------------


def grid(law: toys.Gaussian, time: float, h: float = 0.3) -> Snapshot:
    """Nodes of a square grid that carry the law's density: spectrally exact moments."""
    half = [int(6 * float(v) ** 0.5 / h) for v in law.cov.diagonal()]
    x = torch.cartesian_prod(*(torch.arange(-k, k + 1, dtype=F64) * h for k in half)) + law.mean
    density = torch.distributions.MultivariateNormal(law.mean, law.cov).log_prob(x).exp() * h * h
    keep = density > 1e-10
    return Snapshot(x[keep], time, density[keep])


def cross_cov(source: Snapshot, target: Snapshot, plan: torch.Tensor) -> torch.Tensor:
    x, y = source.x - plan.sum(1) @ source.x, target.x - plan.sum(0) @ target.x
    return x.T @ plan @ y


@pytest.mark.parametrize("span", [0.5, 2.0])
def test_a_plan_between_grids_has_the_cross_covariance_of_the_bridge(span: float) -> None:
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=span, sigma=SIGMA)
    source, target = grid(SOURCE, 1.0), grid(TARGET, 1.0 + span)
    plan = Entropic(sigma=SIGMA, tolerance=1e-11)(source, target)
    # The nodes that were left out carry a hundred millionth of the mass.
    assert_close(cross_cov(source, target, plan.dense()), bridge.cross_cov, rtol=0, atol=1e-6)


@pytest.mark.parametrize("span", [0.5, 2.0])
def test_a_plan_between_samples_has_it_within_its_standard_error(span: float) -> None:
    """The bias of a plan of n cells goes as 1/n: twice that of 2n less that of n has none."""
    bridge = toys.GaussianBridge(SOURCE, TARGET, span=span, sigma=SIGMA)

    def draw(n: int, seed: int) -> torch.Tensor:
        source = Snapshot(matched(SOURCE, n, 2 * seed), 0.0)
        target = Snapshot(matched(TARGET, n, 2 * seed + 1), span)
        return cross_cov(source, target, Entropic(sigma=SIGMA)(source, target).dense())

    draws = torch.stack([2 * draw(200, k) - draw(100, 100 + k) for k in range(40)]).flatten(1)
    error = (draws.mean(0) - bridge.cross_cov.flatten()) / (draws.std(0) / 40**0.5)
    assert error.abs().max() < Z
    assert (draws.std(0) / 40**0.5).max() < 0.01  # ten times less than a wrong span would do


def test_far_clusters_are_bridged_each_for_itself() -> None:
    """Clusters further apart than noise reaches: the plan is the mixture of theirs, by weight."""
    away, weights = torch.tensor([12.0, 0.0], dtype=F64), (0.3, 0.7)
    laws = (SOURCE, TARGET), (TARGET, SOURCE)  # of the left cluster, and of the right one
    ends = []
    for time, end in ((0.0, 0), (2.0, 1)):
        left, right = (grid(pair[end], time, h=0.4) for pair in laws)
        x = torch.cat([left.x - away, right.x + away])
        mass = torch.cat([weights[0] * left.weights, weights[1] * right.weights])
        ends.append((Snapshot(x, time, mass), len(left)))
    (source, n), (target, m) = ends
    plan = Entropic(sigma=SIGMA, tolerance=1e-11)(source, target).dense()
    assert float(plan[:n, m:].sum() + plan[n:, :m].sum()) < 1e-12
    for part, pair, weight in (
        ((slice(0, n), slice(0, m)), laws[0], weights[0]),
        ((slice(n, None), slice(m, None)), laws[1], weights[1]),
    ):
        bridge = toys.GaussianBridge(*pair, span=2.0, sigma=SIGMA)
        block = plan[part]
        assert float(block.sum()) == pytest.approx(weight, abs=1e-11)
        rows, cols = (Snapshot(s.x[p], s.time) for s, p in zip((source, target), part, strict=True))
        assert_close(cross_cov(rows, cols, block / weight), bridge.cross_cov, rtol=0, atol=1e-6)


@pytest.mark.parametrize("span", [0.25, 3.0])
def test_a_mixture_whose_plan_is_known(span: float) -> None:
    """Any potential of the target makes a plan: the one for the marginals that this plan has."""
    epsilon = SIGMA**2 * span
    x = matched(SOURCE, 80, 0)
    y = torch.cat([matched(TARGET, 50, 1), matched(TARGET, 60, 2) - 3.0])
    potential = torch.where(y[:, 0] > 0, 1.0, -2.0) + torch.cos(3 * y[:, 1])
    a = torch.linspace(1, 2, 80, dtype=F64) / 120
    plan = a[:, None] * torch.softmax((x @ y.T) / epsilon + potential, 1)
    found = Entropic(sigma=SIGMA, tolerance=1e-12)(
        Snapshot(x, 0.0, a), Snapshot(y, span, plan.sum(0))
    )
    assert_close(found.dense(), plan, rtol=1e-6, atol=1e-11)


# --- learned dynamics ------------------------------------------------------------------------


def ornstein_uhlenbeck(law: toys.Gaussian, t: float) -> toys.Gaussian:
    """Law after `t` of dX = (A X + b) dt + c dW, by the exponential of Van Loan (1978)."""
    block = torch.zeros(4, 4, dtype=F64)
    block[:2, :2], block[2:, 2:] = -MATRIX, MATRIX.T
    block[:2, 2:] = DIFFUSION**2 * torch.eye(2)
    power = torch.linalg.matrix_exp(block * t)
    flow = power[2:, 2:].T
    mean = linear_flow(t, law.mean[None], matrix=MATRIX, offset=SHIFT)[0]
    return toys.Gaussian(mean, flow @ law.cov @ flow.T + flow @ power[:2, 2:])


START = toys.Gaussian([1.5, -0.5], [[1.3, 0.5], [0.5, 0.5]])
SNAPSHOTS = [ornstein_uhlenbeck(START, t) for t in TIMES]
SPIRAL = Chain(
    tuple(
        Oracle(toys.GaussianBridge(a, b, span=t1 - t0, sigma=SIGMA), t0)
        for (a, b), (t0, t1) in zip(pairwise(SNAPSHOTS), pairwise(TIMES), strict=True)
    )
)
PAIR = Chain((Oracle(toys.GaussianBridge(SOURCE, TARGET, span=2.0, sigma=SIGMA), 1.0),))
#: Fitted course -> (its exact bridges, times to ask, those far from where the fields jump).
COURSES = {
    "pair": (PAIR, (1.0, 1.4, 2.0, 2.6, 3.0), (1.2, 1.6, 2.0, 2.4, 2.8)),
    "spiral": (SPIRAL, (0.0, 0.25, 0.5, 1.0, 1.5, 2.5), (0.1, 0.25, 0.4, 0.8, 1.5, 2.2)),
}
STEP = {"rk4": 0.05, "euler_maruyama": 0.02, "sra1": 0.05}
CELLS = 4000


@pytest.fixture(scope="module")
def fits() -> dict[str, cf.Fit]:
    method = cf.SF2M(
        SIGMA,
        net=MLPConfig(64, 2),
        batching=Batching(256, None),
        training=Training(learning_rate=1e-2, ema=0.99, validation=0.0),
    )
    out = {}
    for name, (exact, _, _) in COURSES.items():
        cells = [matched(exact.at(t), 1000, k) for k, t in enumerate(exact.times)]
        course = TimeCourse.from_arrays(cells, exact.times)
        out[name] = method.fit(course, steps=2000, dtype=torch.float32, progress=False)
    return out


@pytest.fixture(scope="module")
def paths(fits) -> dict:
    """Cells simulated by each solver, forward and back, on demand."""
    made: dict = {}

    def path(name: str, solver: str, backward: bool):
        if (name, solver, backward) not in made:
            exact, times, _ = COURSES[name]
            times = times[::-1] if backward else times
            law = exact.at(times[0])
            x0 = law.sample(CELLS, generator=3).float()
            made[name, solver, backward] = fits[name].simulate(
                x0, times, solver=solver, max_step=STEP[solver], generator=4
            )
        return made[name, solver, backward]

    return path


WAYS = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def test_the_spiral_tells_its_bridge_from_itself() -> None:
    """An Ornstein-Uhlenbeck process is no bridge of Brownian motion between its snapshots."""
    for a, b in pairwise(SNAPSHOTS):
        assert (a.cov @ b.cov - b.cov @ a.cov).norm() > 0.1
    itself = ornstein_uhlenbeck(START, 1.5)
    assert distance(matched(itself, 100, 0), SPIRAL.at(1.5)) > 0.3


@WAYS
@pytest.mark.parametrize("solver", STEP)
@pytest.mark.parametrize("name", COURSES)
def test_every_marginal_is_that_of_the_bridge(name, solver, backward, paths) -> None:
    path = paths(name, solver, backward)
    for time, x in zip(path.times.tolist(), path.x, strict=True):
        # Four standard errors of a covariance of 4,000 cells are .09; measured up to .09.
        assert distance(x, COURSES[name][0].at(time)) < 0.13


@WAYS
@pytest.mark.parametrize("solver", ["euler_maruyama", "sra1"])
@pytest.mark.parametrize("name", COURSES)
def test_the_ends_of_stochastic_paths_covary_as_the_static_plan(
    name, solver, backward, paths
) -> None:
    path = paths(name, solver, backward)
    for part in COURSES[name][0].parts:
        x, y = path.at(part.start).double(), path.at(part.stop).double()
        found = (x - x.mean(0)).T @ (y - y.mean(0)) / CELLS
        # As above; measured up to .06.
        assert_close(found, part.bridge.cross_cov, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", COURSES)
def test_the_flow_and_the_stochastic_paths_share_their_marginals(name, paths) -> None:
    flow, noisy = (paths(name, solver, False) for solver in ("rk4", "sra1"))
    for x, y in zip(flow.x, noisy.x, strict=True):
        law = toys.Gaussian(y.double().mean(0), y.double().T.cov())
        assert distance(x, law) < 0.13
    # Not their paths: noise makes cells forget where they came from.
    kept = [(p.x[0].T @ (p.final - p.final.mean(0)) / CELLS).norm() for p in (flow, noisy)]
    assert kept[0] > 1.3 * kept[1]


@pytest.mark.parametrize("name", COURSES)
def test_there_and_back_returns_to_the_first_law(name, fits, paths) -> None:
    there = paths(name, "sra1", False)
    first, last = float(there.times[0]), float(there.times[-1])
    back = fits[name].simulate(there.final, [last, first], solver="sra1", max_step=0.05)
    assert distance(back.final, COURSES[name][0].at(first)) < 0.13
    assert (back.final - there.x[0]).norm(dim=1).median() > 0.3  # other ancestors


@pytest.mark.parametrize("name", COURSES)
def test_learned_fields_are_those_of_the_bridge(name, fits) -> None:
    exact, _, times = COURSES[name]
    fit = fits[name]
    errors = []
    for k, t in enumerate(times):
        law, part = exact.at(t), exact.part(t)
        x = law.sample(2000, generator=k)
        ours = fit.velocity(t, x).double(), fit.score(t, x).double()
        truth = part.velocity(t, x), part.score(t, x)
        drift = [v + 0.5 * SIGMA**2 * s for v, s in (ours, truth)]
        pairs = [*zip(ours, truth, strict=True), drift]
        errors.append([relative_error(a, b) for a, b in pairs])
    worst = torch.tensor(errors).max(0).values
    # Velocity, score and drift: measured up to .14, .14 and .13, over seeds.
    assert worst.max() < 0.2


def test_exact_dynamics_through_the_same_door() -> None:
    """What the tolerances above would be without learning: the bridge's own fields."""
    law = PAIR.at(1.0)
    x0 = law.sample(CELLS, generator=3)
    path = simulate(PAIR.parts[0].bridge.dynamics(), x0, [0.0, 1.0, 2.0], solver="sra1")
    assert distance(path.x[1], PAIR.at(2.0)) < 0.09
    assert distance(path.x[2], PAIR.at(3.0)) < 0.09


# --- limits ----------------------------------------------------------------------------------

#: No clipping: its bound is that of both networks' gradients together.
PARTS = {
    "net": MLPConfig(32, 2),
    "batching": Batching(64, None, prefetch=False),
    "training": Training(learning_rate=5e-3, clip=1e9, validation=0.0),
}


def ends(n: int = 60, m: int = 60, span: float = 2.0) -> tuple[Snapshot, Snapshot]:
    return Snapshot(matched(SOURCE, n, 0), 1.0), Snapshot(matched(TARGET, m, 1), 1.0 + span)


def course() -> TimeCourse:
    return TimeCourse((*ends(), Snapshot(matched(SOURCE, 60, 2), 3.5)))


# --- no noise --------------------------------------------------------------------------------


def test_without_noise_the_plan_is_that_of_optimal_transport() -> None:
    source, target = ends()
    exact = Exact()(source, target)
    gaps = []
    for sigma in (0.3, 0.1, 0.03, 0.002):
        plan = Entropic(sigma=sigma, tolerance=1e-9)(source, target)
        assert plan.fallback is None
        gaps.append(float((plan.dense() - exact.dense()).abs().sum()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6
    assert plan.partners == pytest.approx(1.0, abs=1e-6)
    assert plan.cost == pytest.approx(exact.cost, rel=1e-6)


def test_without_noise_the_velocity_is_that_of_optimal_transport_flow_matching() -> None:
    """The same pairs, times and first weights: the same network, up to an error of order sigma."""
    c = course()
    flow = cf.OTCFM(0.0, **PARTS).fit(c, steps=150, progress=False)
    x, gaps = c.snapshots[0].x, []
    for sigma in (0.1, 0.01, 0.001):
        bridge = cf.SF2M(sigma, coupling="exact", **PARTS).fit(c, steps=150, progress=False)
        times = (1.2, 2.0, 2.8, 3.1, 3.4)
        gaps.append(max(relative_error(bridge.velocity(t, x), flow.velocity(t, x)) for t in times))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.005  # draws of time keep a thousandth of the interval from its ends
    # And the paths are its lines, whichever solver draws them.
    lines = flow.simulate(x, [1.0, 2.0, 3.5]).x
    for solver in ("rk4", "sra1"):
        path = bridge.simulate(x, [1.0, 2.0, 3.5], solver=solver, max_step=0.02).x
        assert_close(path, lines, rtol=0, atol=0.05)


def test_the_exact_bridge_tends_to_the_displacement_interpolation() -> None:
    still = toys.GaussianBridge(SOURCE, TARGET, span=2.0, sigma=1e-5)
    for s in (0.0, 0.3, 0.8, 1.0):
        law = gaussian_displacement(s, SOURCE, TARGET)
        assert_close(still.at(2.0 * s).mean, law.mean)
        assert_close(still.at(2.0 * s).cov, law.cov, rtol=0, atol=1e-8)


# --- nothing but noise -----------------------------------------------------------------------


@pytest.mark.parametrize("masses", ["equal", "unequal"])
@pytest.mark.parametrize("span", [0.5, 2.0])
def test_with_nothing_but_noise_cells_are_paired_at_random(span: float, masses: str) -> None:
    source, target = ends(40, 70, span)
    if masses == "unequal":
        source = Snapshot(source.x, 1.0, torch.linspace(1, 5, 40, dtype=F64))
        target = Snapshot(target.x, 1.0 + span, torch.linspace(3, 1, 70, dtype=F64))
    gaps = []
    for sigma in (3.0, 30.0, 3000.0):
        plan = Entropic(sigma=sigma)(source, target)
        product = Independent()(source, target)
        gaps.append(float((plan.dense() - product.dense()).abs().sum()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-6
    assert plan.partners == pytest.approx(product.partners, rel=1e-6)
    if masses == "equal":
        assert plan.partners == pytest.approx(70.0, rel=1e-6)
    assert plan.cost == pytest.approx(product.cost, rel=1e-6)


def test_the_exact_bridge_forgets_where_it_came_from() -> None:
    wild = toys.GaussianBridge(SOURCE, TARGET, span=2.0, sigma=1e4)
    assert_close(wild.cross_cov, torch.zeros(2, 2, dtype=F64), rtol=0, atol=1e-7)
