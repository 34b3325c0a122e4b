"""Reference drifts: fields that velocities tell, and pairs and paths that are relative to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad_vec, solve_ivp
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from cellflow import toys
from cellflow.batches import Batching, PairSampler, Reference
from cellflow.couplings import Exact, Independent
from cellflow.paths import Carried, Pairs, Path
from cellflow.timecourse import TimeCourse
from closed_forms import linear_flow

F64 = torch.float64
TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
WHOLE = Batching(64, None)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def linear_course(matrix: torch.Tensor, offset: torch.Tensor, n: int = 64) -> TimeCourse:
    xs = [randn(n, len(offset), seed=k) + k for k in range(3)]
    velocities = [x @ matrix.T + offset for x in xs]
    return TimeCourse.from_arrays(xs, [0.0, 1.0, 1.5], velocities=velocities)


def reference_of(course: TimeCourse) -> Reference:
    found = Reference.of(course)
    assert found is not None
    return found


def test_linear_fields_and_their_flows_are_met_everywhere() -> None:
    """By the matrix exponential; of cells far from all others, too."""
    matrix, offset = 0.7 * randn(3, 3, seed=9), randn(3, seed=8)
    course = linear_course(matrix, offset)
    reference, far = reference_of(course), 20 * randn(5, 3, seed=7)
    assert_close(reference(far), far @ matrix.T + offset)
    steps, ways = reference.carry(course)
    for k, (source, target) in enumerate(course.steps):
        span = target.time - source.time
        for s in (0.4, 1.0):
            true = linear_flow(s * span, source.x, matrix=matrix, offset=offset)
            # Of the polynomial, the linear part is what is left to the end.
            bend = torch.einsum(
                "p,npd->nd", s ** torch.arange(2, 9).double() - s, ways[64 * k :][:64]
            )
            way = torch.lerp(source.x, steps[k][0].x, s) + bend
            assert_close(way, true, atol=1e-3, rtol=1e-3)
    assert not ways[128:].any()  # no interval follows


def test_bent_fields_are_met_near_cells_and_errors_average_out() -> None:
    def field(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 1].sin(), x[:, 0] * x[:, 1]], 1)

    xs = [1.5 * randn(400, 2, seed=k) for k in range(2)]
    x = 1.5 * randn(300, 2, seed=5)
    errors = {}
    for noise in (0.0, 0.5):
        velocities = [field(x) + noise * randn(400, 2, seed=20 + k) for k, x in enumerate(xs)]
        found = reference_of(TimeCourse.from_arrays(xs, velocities=velocities))
        errors[noise] = float((found(x) - field(x)).square().mean().sqrt())
    assert errors[0.0] < 0.05
    assert errors[0.5] < 0.25  # half of a single cell's


def test_without_drift_pairs_are_those_of_transport_and_paths_straight() -> None:
    still = linear_course(torch.zeros(3, 3, dtype=F64), torch.zeros(3, dtype=F64))
    relative = PairSampler(still, Exact(), WHOLE, reference=reference_of(still)).batch(0)
    plain = PairSampler(still, Exact(), WHOLE).batch(0)
    assert_close(relative.x1, plain.x1, rtol=0, atol=0)
    assert not relative.way.any()
    assert Reference.of(TimeCourse.from_arrays([randn(5, 2), randn(5, 2)])) is None


@pytest.mark.parametrize("coupling", [Exact(), Independent()], ids=["exact", "independent"])
def test_a_translation_maps_cells_to_their_copies_without_action(coupling) -> None:
    """By c × span, which is twelve times the spread: any pair has a straight path, its own."""
    x, c = randn(64, 2), torch.tensor([4.0, -12.0], dtype=F64)
    moved = [x, (x + 3 * c).flip(0)]
    course = TimeCourse.from_arrays(moved, [0.0, 3.0], velocities=[c.expand(64, 2)] * 2)
    pairs = PairSampler(course, coupling, WHOLE, reference=reference_of(course)).batch(0)
    s = torch.linspace(0, 1, 64, dtype=F64)[:, None]
    point = Carried(0.0).at(pairs, s, torch.zeros_like(pairs.x0))
    assert_close(point.x, torch.lerp(pairs.x0, pairs.x1, s))
    if isinstance(coupling, Exact):
        assert_close(pairs.x1, pairs.x0 + 3 * c)
        assert_close(point.velocity, c.expand(64, 2))


def turning(degrees: float, n: int = 64) -> TimeCourse:
    return toys.cycle(n, [0.0, degrees / 360])


@pytest.mark.parametrize("degrees", [100.0, 216.0, 330.0])
def test_pairs_on_a_cycle_have_the_least_action(degrees: float) -> None:
    """A rotation keeps lengths, so that in its frame the least action is the squared distance
    from where it carries a cell: assigned by scipy."""
    course = turning(degrees)
    pairs = PairSampler(course, Exact(), WHOLE, reference=reference_of(course)).batch(0)
    (source, target), angle = course.steps[0], math.radians(degrees)
    carried = linear_flow(angle, source.x, matrix=TURN)
    _, cols = linear_sum_assignment(torch.cdist(carried, target.x).numpy() ** 2)
    rows = (pairs.x0[:, None] == source.x).all(2).int().argmax(1)
    assert_close(pairs.x1, target.x[cols][rows])


def test_action_of_a_path_is_that_of_its_gap() -> None:
    """∫|x' - h f(x)|² ds by quadrature, for gaps of a hundredth of the radius."""
    course = turning(150.0)
    pairs = PairSampler(course, Exact(), WHOLE, reference=reference_of(course)).batch(0)
    end = linear_flow(math.radians(150), pairs.x0, matrix=TURN)
    gap = 0.03 * randn(64, 2, seed=3)
    pairs = Pairs(pairs.x0, end + gap, pairs.t0, pairs.t1, way=pairs.way)
    path, h = Carried(0.0), math.radians(150)

    def rate(u: float) -> np.ndarray:
        s = torch.full((64, 1), u, dtype=F64)
        excess = path.mean_rate(pairs, s) - h * path.mean(pairs, s) @ TURN.T
        return excess.square().sum(1).numpy()

    action = quad_vec(rate, 0, 1)[0]
    least, length = gap.square().sum(1).numpy(), h**2 / 3
    # The gap is led evenly, in a frame that does not turn: 1 + h²/3 times the least action.
    np.testing.assert_allclose(action, least * (1 + length), rtol=0.2, atol=1e-4)


def test_the_way_of_a_limit_cycle_is_that_of_scipy() -> None:
    """Van der Pol's oscillator, whose velocities are seen all around it."""

    def field(x: np.ndarray) -> np.ndarray:
        return np.stack([x[1], (1 - x[0] ** 2) * x[1] - x[0]])

    x = 1.5 * randn(1000, 2, seed=2)
    velocities = [torch.from_numpy(field(x.T.numpy()).T)] * 2
    course = TimeCourse.from_arrays([x, x], [0.0, 1.5], velocities=velocities)
    few = course.snapshots[0].subset(torch.arange(10))
    steps, _ = reference_of(course).carry(TimeCourse((few, course.snapshots[1])))
    for start, end in zip(few.x, steps[0][0].x, strict=True):
        true = solve_ivp(lambda t, y: field(y), (0, 1.5), start.numpy(), rtol=1e-8).y[:, -1]
        assert float((end - torch.from_numpy(true)).norm()) < 0.2


def test_paths_hit_their_ends_and_rates_are_automatic_ones() -> None:
    t = torch.zeros(6, 1, dtype=F64)
    pairs = Pairs(randn(6, 3), randn(6, 3, seed=1), t, t + 2, way=randn(6, 7, 3, seed=2))
    path = Carried(0.2)
    assert_close(path.mean(pairs, t), pairs.x0)
    assert_close(path.mean(pairs, t + 1), pairs.x1)
    s = torch.linspace(0.05, 0.95, 6, dtype=F64)[:, None]
    assert_close(path.mean_rate(pairs, s), Path.mean_rate(path, pairs, s))
    twice = pairs.repeated(2)
    assert_close(twice.way, torch.cat([pairs.way, pairs.way]))


@pytest.mark.parametrize("times", [5.0, 400.0])
def test_velocities_of_another_unit_are_refused(times: float) -> None:
    matrix = times * (TURN if times < 10 else torch.eye(2, dtype=F64)) * 2 * math.pi
    course = linear_course(matrix, torch.zeros(2, dtype=F64))
    with pytest.raises(ValueError, match="`velocity`: got velocities that wind .* about a turn"):
        reference_of(course).carry(course)
